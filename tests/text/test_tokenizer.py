"""Tokenizers: what is written is read back, and a text that spells a special token stays text."""

import json
import pathlib
import pickle

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from mmjax.core.errors import ConfigError
from mmjax.text.tokenizer import SPECIAL_NAMES, ByteTokenizer, TokenizerConfig, make_tokenizer

CORPUS = [
    "this is a dax. this is a wug.",
    "what is left of the 3? what is the sum?",
    "how many digits are in the picture of the scene?",
    "the quick brown fox jumps over the lazy dog, and the image is there.",
] * 20


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    """A byte-level BPE with an image token of its own, `<image>` as an ordinary token, and padding on."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "</s>", "<|picture|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(CORPUS, trainer)
    model.add_tokens([tokenizers.AddedToken("<image>", special=False)])
    model.enable_truncation(4)
    model.enable_padding(length=16)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "corpus.txt").write_text("\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tiny"),
        vocab_size=360,
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=["<image>"],
        pad_id=3,
        minloglevel=2,
    )
    return folder / "tiny.model"


@pytest.fixture(params=["byte", "tokenizer_json", "sentencepiece"])
def tokenizer(request):
    if request.param == "byte":
        return make_tokenizer(TokenizerConfig())
    fixture = {"tokenizer_json": "tokenizer_json", "sentencepiece": "sentencepiece_model"}[request.param]
    return make_tokenizer(TokenizerConfig(kind=request.param, path=str(request.getfixturevalue(fixture))))


TEXTS = [
    "this is a dax.",
    " dax.",
    "dax",
    "7.",
    "  two  spaces ",
    "naïve 日本 🦊",
    "longer than four tokens, not cut",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= number < tokenizer.vocab_size for number in ids)


@given(st.text())
def test_any_text_comes_back_from_bytes(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["<image>", "a <image> b<image><image>", "<s></s>", "<pad>", "<|picture|>"])
def test_a_text_that_spells_a_special_token_stays_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode(ids) == text


def test_special_tokens_are_all_there_apart_and_not_decoded(tokenizer):
    assert tuple(tokenizer.special) == SPECIAL_NAMES
    ids = list(tokenizer.special.values())
    assert len(set(ids)) == len(ids)
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.decode([ids[1], *tokenizer.encode("a dax"), *ids]) == "a dax"


def test_encode_gives_a_list_of_its_own(tokenizer):
    first = tokenizer.encode("dax")
    first.append(-1)
    assert -1 not in tokenizer.encode("dax")


def test_what_a_vocabulary_has_is_used_and_the_rest_is_appended(tokenizer_json):
    tokenizer = make_tokenizer(
        TokenizerConfig(kind="tokenizer_json", path=str(tokenizer_json), special={"image": "<|picture|>"})
    )
    known = tokenizers.Tokenizer.from_file(str(tokenizer_json))
    size = known.get_vocab_size(with_added_tokens=True)
    assert tokenizer.special["bos"] == known.token_to_id("<s>")
    assert tokenizer.special["eos"] == known.token_to_id("</s>")
    assert tokenizer.special["image"] == known.token_to_id("<|picture|>")
    assert (tokenizer.special["pad"], tokenizer.special["end_of_chunk"]) == (size, size + 1)
    assert tokenizer.vocab_size == size + 2


def test_ordinary_text_is_encoded_as_the_libraries_do(tokenizer_json, sentencepiece_model):
    ours = make_tokenizer(TokenizerConfig(kind="tokenizer_json", path=str(tokenizer_json)))
    theirs = tokenizers.Tokenizer.from_file(str(tokenizer_json))
    theirs.no_truncation()
    theirs.no_padding()
    assert ours.encode("this is a dax. how many?") == theirs.encode("this is a dax. how many?").ids
    ours = make_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(sentencepiece_model)))
    model = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    assert ours.encode(" this is a dax. how many?") == model.encode("this is a dax. how many?")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TokenizerConfig(kind="tokenizer_json", path="/nowhere/tokenizer.json"), "there is no file"),
        (TokenizerConfig(special={"imgae": "<image>"}), "did you mean image?"),
        (TokenizerConfig(path="x"), "leave path and special empty"),
    ],
)
def test_wrong_settings_are_named(config, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        make_tokenizer(config)


def test_a_spelling_that_is_not_there_and_a_broken_file_are_named(tokenizer_json, tmp_path):
    with pytest.raises(ConfigError, match="has no token '<nope>'"):
        make_tokenizer(TokenizerConfig(kind="tokenizer_json", path=str(tokenizer_json), special={"bos": "<nope>"}))
    broken = tmp_path / "broken"
    broken.write_text(json.dumps({"not": "a tokenizer"}))
    with pytest.raises(ConfigError, match=r"is not a tokenizer\.json"):
        make_tokenizer(TokenizerConfig(kind="tokenizer_json", path=str(broken)))
    with pytest.raises(ConfigError, match="is not a SentencePiece model"):
        make_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(broken)))


def test_tokenizers_travel_to_other_processes(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    text = "the cat <image> é 7"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.special == tokenizer.special
    assert again.fingerprint == tokenizer.fingerprint


def test_the_fingerprint_is_of_the_content(tokenizer_json, tmp_path):
    def fingerprint(path, **special):
        return make_tokenizer(TokenizerConfig(kind="tokenizer_json", path=str(path), special=special)).fingerprint

    first = fingerprint(tokenizer_json)
    copy = tmp_path / "copy.json"
    copy.write_bytes(pathlib.Path(tokenizer_json).read_bytes())
    assert fingerprint(copy) == first
    content = json.loads(copy.read_text())
    word = next(iter(content["model"]["vocab"]))
    assert fingerprint(copy, eos=word) != first
    copy.write_text(json.dumps(content, indent=1))
    assert fingerprint(copy) != first
