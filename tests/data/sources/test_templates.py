"""Chat templates: the ids of transformers' `apply_chat_template`, and no control word out of what a user says."""

import html
import json
import pickle

import numpy as np
import pytest
import sentencepiece
import tokenizers

from mmjax.core.config import build
from mmjax.core.errors import ConfigError
from mmjax.core.example import Text
from mmjax.data.config import DataConfig
from mmjax.data.lengths import measure
from mmjax.data.show import render_rows
from mmjax.data.sources.options import ChatOptions
from mmjax.data.stream import BatchStream
from mmjax.text.chat import CONTROL_WORDS, SPELLINGS
from mmjax.text.prompt import Layout, tokenize
from mmjax.text.tokenizer import ByteTokenizer, TokenizerConfig, make_tokenizer
from tests.data.sources.made import make, picture

transformers = pytest.importorskip("transformers")

# After the formats that the makers of the models publish.
JINJA = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content | trim + '\n\n' %}{% else %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ ns.system if m.role == 'user' }}{{ m.content | trim }}<end_of_turn>\n"
        "{% if m.role == 'user' %}{% set ns.system = '' %}{% endif %}{% endif %}{% endfor %}"
    ),
    "mistral": (
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
        "{% elif m.role == 'user' %}[INST] {{ ns.system }}{{ m.content }}[/INST]{% set ns.system = '' %}"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    ),
}
JINJA["mistral_v1"] = JINJA["mistral"].replace("[/INST]", " [/INST]")
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
CONTROL = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "mistral": ("[INST]", "[/INST]", "</s>"),
    "mistral_v1": ("</s>",),
}
CHATS = [
    [("user", "<image>\nWhat is this?"), ("assistant", "A dax.")],
    [
        ("system", "Be brief."),
        ("user", " Is it <image> or <image>? "),
        ("assistant", "The 2nd."),
        ("user", "Sure?"),
        ("assistant", "Yes, it is.\nA wug."),
    ],
    [("user", "this is a dax"), ("assistant", "no"), ("user", "why"), ("assistant", "since"), ("user", "never read")],
]


@pytest.fixture(scope="module", params=JINJA)
def family(request, tmp_path_factory):
    """A template's name, and a small byte-level BPE whose special tokens are its control words."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=list(dict.fromkeys(["<s>", "</s>", "<image>", *CONTROL[request.param]])),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([text for chat in CHATS for _, text in chat] * 20, trainer)
    path = tmp_path_factory.mktemp(request.param) / "tokenizer.json"
    model.save(str(path))
    return request.param, str(path)


def read_chats(folder, chats, **options):
    """The kind `chat` over a file of conversations, each text of which has as many pictures as marks."""
    (folder / "0.jpg").write_bytes(picture(0))
    records = [
        {
            "messages": [{"role": role, "content": text} for role, text in chat],
            "images": ["0.jpg"] * sum(text.count("<image>") for _, text in chat),
        }
        for chat in chats
    ]
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, records)))
    return make("chat", paths=(str(folder / "chat.jsonl"),), **options)


def ours(family):
    name, path = family
    return make_tokenizer(TokenizerConfig("tokenizer_json", path, {"eos": ENDS.get(name, "</s>")}))


def layout_of(name):
    return Layout(bos="none" if name == "chatml" else "first")


def test_ids_are_those_of_transformers(family, tmp_path):
    name, path = family
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=path, bos_token="<s>", eos_token="</s>", chat_template=JINJA[name]
    )
    tokenizer, source = ours(family), read_chats(tmp_path, CHATS, template=name)
    measured = measure(source, tokenizer, layout_of(name))
    for index, chat in enumerate(CHATS):
        turns = [{"role": role, "content": text} for role, text in chat]
        turns = turns[:-1] if turns[-1]["role"] == "user" else turns
        expected = theirs.apply_chat_template(turns, tokenize=True, return_dict=False)
        text = tokenize(source.load(index, 0).segments, tokenizer, layout=layout_of(name))
        # Theirs may put a line break after the last turn, which nobody reads.
        assert text.tokens.tolist() == expected[: len(text.tokens)]
        assert theirs.decode(expected[len(text.tokens) :]) in ("", "\n")
        assert measured.lengths.tokens[index] == len(text.tokens)
        said = [answer + ENDS.get(name, "</s>") for role, answer in chat if role == "assistant"]
        learned = theirs.decode(text.tokens[text.loss])
        assert learned == "".join(f" {answer}" if name.startswith("mistral") else answer for answer in said)


def test_words_of_a_user_never_become_control_tokens(family, tmp_path):
    name, _ = family
    tokenizer = ours(family)
    words = "".join(sorted(CONTROL_WORDS)) + "<s><pad><image"
    chats = [[("system", said), ("user", said), ("assistant", said)] for said in ("hello", words)]
    source = read_chats(tmp_path, chats, template=name)
    plain, hostile = (
        tokenize(source.load(index, 0).segments, tokenizer, layout=layout_of(name)).tokens for index in range(2)
    )
    marks = [*tokenizer.special.values(), *map(tokenizer.control, CONTROL[name])]
    assert plain[np.isin(plain, marks)].tolist() == hostile[np.isin(hostile, marks)].tolist()
    assert tokenizer.decode(hostile).count(words) == 3


def test_a_cut_conversation_ends_without_loss(family, tmp_path):
    name, _ = family
    tokenizer, source = ours(family), read_chats(tmp_path, CHATS, template=name)
    segments, layout = source.load(1, 0).segments, layout_of(name)
    whole = tokenize(segments, tokenizer, layout=layout)
    for size in (len(whole.tokens), len(whole.tokens) + 1):
        same = tokenize(segments, tokenizer, layout=layout, max_tokens=size)
        assert same.tokens.tolist() == whole.tokens.tolist()
        assert same.loss.tolist() == whole.loss.tolist()
    cut = tokenize(segments, tokenizer, layout=layout, max_tokens=len(whole.tokens) - 1)
    assert cut.tokens.tolist() == [*whole.tokens[:-2], whole.tokens[-1]]
    assert cut.loss.tolist() == [*whole.loss[:-2], False]


def test_the_templates_of_the_options_are_those_that_there_are():
    for name in SPELLINGS:
        assert make_options(template=name).template == name
    named = {word for words in CONTROL.values() for word in words}
    assert named == CONTROL_WORDS


def make_options(**options):
    return ChatOptions(paths=("x",), **options)


def test_control_words_of_a_sentencepiece_model(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(text for chat in CHATS * 20 for _, text in chat if text))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(tmp_path / "tiny"),
        vocab_size=330,
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"],
        control_symbols=["[INST]"],
        minloglevel=2,
    )
    tokenizer = make_tokenizer(TokenizerConfig("sentencepiece", str(tmp_path / "tiny.model"), {"eos": "<end_of_turn>"}))
    tokenizer = pickle.loads(pickle.dumps(tokenizer))
    source = read_chats(tmp_path, [[("user", "a <end_of_turn>[INST]"), ("assistant", "dax")]], template="gemma")
    begin, end = tokenizer.control("<start_of_turn>"), tokenizer.control("<end_of_turn>")
    tokens = tokenize(source.load(0, 0).segments, tokenizer).tokens.tolist()
    assert tokens[:2] == [tokenizer.special["bos"], begin]
    assert [token for token in tokens if token in (begin, end)] == [begin, end, begin, end]
    assert tokenizer.control("[INST]") not in tokens
    with pytest.raises(ConfigError, match=r"needs '<\|im_start\|>' as a token of its own"):
        tokenizer.control("<|im_start|>")


def test_a_template_needs_its_control_words(tmp_path):
    source = read_chats(tmp_path, CHATS, template="chatml")
    with pytest.raises(ConfigError, match="byte tokenizer has no control word"):
        measure(source, ByteTokenizer())
    assert Text("<|im_start|>", control=True) in source.load(0, 0).segments


def test_a_page_of_rows_names_control_words(family, tmp_path):
    name, _ = family
    tokenizer = ours(family)
    read_chats(tmp_path, CHATS, template=name)
    entry = {"kind": "chat", "options": {"paths": [str(tmp_path / "chat.jsonl")], "template": name}}
    data = {"sources": {"chat": entry}, "length": 256, "images": 4, "image_size": 16}
    layout = {"bos": layout_of(name).bos}
    stream = BatchStream(build(DataConfig, data | {"layout": layout}), tokenizer, batch_size=1, seed=0, workers=0)
    render_rows([stream.read(0)], tokenizer, tmp_path / "rows.html", dataset_names=stream.dataset_names)
    page = (tmp_path / "rows.html").read_text()
    shown = [word for word in CONTROL[name] if f">{html.escape(word)}</span>" in page]
    assert shown == [word for word in CONTROL[name] if word != ENDS.get(name, "</s>")]
