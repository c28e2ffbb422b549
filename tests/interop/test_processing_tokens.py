"""Tokenizers of released checkpoints, read from their files: the ids that transformers' classes give."""

import json

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from mmjax.core.errors import InputError
from mmjax.interop.processing.tokens import read_tokenizer
from tests.parity.reference_models import transformers

LETTERS = [chr(code) for code in range(33, 127)]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
CAT = [("c", "a"), ("ca", "t")]
TEXTS = ["a cat  sat.", "<image>a Cat <image> \n\nsat", "  x", "<image><image>", "</s>a", ""]


def vocabulary(*groups):
    return {token: number for number, token in enumerate(dict.fromkeys(token for group in groups for token in group))}


def pieces(*special):
    return vocabulary(special, ["▁"], LETTERS, ["▁a", "ca", "cat"])


def of_bytes(*special):
    return {"vocab": vocabulary(special, BYTES, ["ca", "cat"]), "merges": CAT}


LLAMA = {"vocab": pieces("<unk>", "<s>", "</s>"), "merges": [("▁", "a"), *CAT]}
WORDS = vocabulary(["<|startoftext|>", "<|endoftext|>"], BYTES, [byte + "</w>" for byte in BYTES], ["ca", "cat</w>"])
WORD_PIECES = vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], LETTERS, [f"##{letter}" for letter in LETTERS])
UNIGRAMS = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -1.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
CASES = {
    "Llama": ("LlamaTokenizer", LLAMA),
    "Llama, marked": ("LlamaTokenizer", LLAMA | {"add_bos_token": True, "add_eos_token": True}),
    "Gemma": ("GemmaTokenizer", {"vocab": pieces("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), "merges": CAT}),
    "Qwen2": ("Qwen2Tokenizer", of_bytes()),
    "GPT-2": ("GPT2Tokenizer", of_bytes("<|endoftext|>")),
    "OPT": (
        "GPT2Tokenizer",
        of_bytes("</s>") | {"add_bos_token": True, "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"},
    ),
    "CLIP": ("CLIPTokenizer", {"vocab": WORDS, "merges": [("c", "a"), ("ca", "t</w>")]}),
    "BERT": ("BertTokenizer", {"vocab": WORD_PIECES}),
    "T5": ("T5Tokenizer", {"vocab": UNIGRAMS, "extra_ids": 2}),
}


def assert_same(ours, theirs):
    for text in TEXTS:
        for special in (True, False):
            expected = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, special=special) == expected, text


@pytest.mark.parametrize("name, settings", CASES.values(), ids=CASES)
def test_the_tokenizers_of_the_families(tmp_path, name, settings):
    theirs = getattr(transformers, name)(**settings)
    theirs.add_tokens([transformers.AddedToken("<image>", normalized=False, special=True)], special_tokens=True)
    theirs.save_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    assert_same(ours, theirs)
    assert_same(ours, transformers.AutoTokenizer.from_pretrained(tmp_path))
    assert ours.named == theirs.special_tokens_map


@pytest.mark.parametrize("model_type", ["idefics", "llava", "instructblip"])
@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(
    "settings", [{}, {"legacy": True}, {"legacy": False}, {"add_prefix_space": False}, {"add_eos_token": True}]
)
def test_older_files_of_llama(tmp_path, model_type, name, settings):
    """There the space before a word is the normalizer's, after every special token; tokens are written as objects."""
    backend = tokenizers.Tokenizer(models.BPE(**LLAMA, fuse_unk=True, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>", "<image>")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(tmp_path / "tokenizer.json"))
    named = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "unk_token": "<unk>"}
    named = {
        key: value if isinstance(value, str) else {"__type": "AddedToken", "normalized": False, "rstrip": False} | value
        for key, value in named.items()
    }
    config = {"tokenizer_class": name, **named, **settings, "additional_special_tokens": ["<fake>", "<image>"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    ours, theirs = read_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert_same(ours, theirs)
    assert ours.id_of("<fake>") == theirs.convert_tokens_to_ids("<fake>")
    assert ours.spelling("bos_token") == "<s>"
    assert ours.pads_left == (theirs.padding_side == "left")


def test_bytes_of_llama_3_stay_as_they_are_stored(tmp_path):
    backend = tokenizers.Tokenizer(models.BPE(**of_bytes("<s>")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"}')
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert_same(read_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path))


def test_a_token_that_is_asked_for_and_missing(tmp_path):
    transformers.Qwen2Tokenizer(**of_bytes()).save_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no image_token"):
        ours.spelling("image_token")
    with pytest.raises(InputError, match="no token '<picture>'"):
        ours.id_of("<picture>")
    size = ours.backend.get_vocab_size()
    ours.ensure(["<picture>", "cat"], special=True)
    assert ours.id_of("<picture>") == size
    assert ours.encode("a<picture>cat")[1] == size
