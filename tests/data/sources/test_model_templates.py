"""The chat template of a model's folder: transformers' ids and masks, and nothing that hostile ones do."""

import json
import pickle

import numpy as np
import pytest

from mmjax.core.errors import ConfigError, DataError
from mmjax.core.example import Media, Text
from mmjax.data.lengths import measure
from mmjax.data.sources.conversation import Message
from mmjax.data.sources.templated import templated_segments
from mmjax.text import model_template
from mmjax.text.model_template import ModelTemplate, RenderError
from mmjax.text.prompt import tokenize
from mmjax.text.tokenizer import PICTURE_WORDS
from tests.data.sources.made import make, picture
from tests.data.sources.test_templates import CHATS, CONTROL, ENDS, JINJA, family, layout_of, ours, read_chats

transformers = pytest.importorskip("transformers")
__all__ = ["family"]

WORDS = ["<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>"]
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)
# As vision models publish it: typed parts, the pictures of a turn first (LLaVA), white space controlled by the tags.
TYPED = """{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' }}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'image') %}
        {{- '<image>\n' }}
    {%- endfor %}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
        {{- part['text'] | trim }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


def folder_of(folder, template, words=WORDS, name="tokenizer_config.json"):
    folder.mkdir(exist_ok=True)
    added = {str(number): {"content": word, "special": True} for number, word in enumerate(words)}
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "added_tokens_decoder": added}
    if name == "tokenizer_config.json":
        config["chat_template"] = template
    elif name.endswith(".jinja"):
        (folder / name).write_text(template)
    else:
        (folder / name).write_text(json.dumps({"chat_template": template}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


def spelled(template, messages, system=None):
    turns = [Message(role, (said,) if isinstance(said, str) else said) for role, said in messages]
    shown = templated_segments(turns, template, system, "a record")
    return "".join(
        "[picture]" if isinstance(part, Media) else f"<<{part.text}>>" if part.loss else part.text for part in shown
    )


def test_ids_are_those_of_transformers(family, tmp_path):
    name, path = family
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=path, bos_token="<s>", eos_token="</s>", chat_template=JINJA[name]
    )
    prompted = JINJA[name]
    if "add_generation_prompt" not in prompted:  # as they are published
        begin = {"llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n", "gemma": "<start_of_turn>model\n"}
        prompted += f"{{% if add_generation_prompt %}}{begin.get(name, '')}{{% endif %}}"
    words = list(dict.fromkeys(["<s>", "</s>", "<image>", *CONTROL[name]]))
    where = folder_of(tmp_path / "model", prompted, words)
    tokenizer, source = ours(family), read_chats(tmp_path, CHATS, chat_template=where)
    spelled_here = read_chats(tmp_path, CHATS, template=name)
    measured = measure(source, tokenizer, layout_of(name))
    for index, chat in enumerate(CHATS):
        turns = [{"role": role, "content": text} for role, text in chat]
        turns = turns[:-1] if turns[-1]["role"] == "user" else turns
        expected = theirs.apply_chat_template(turns, tokenize=True, return_dict=False)
        text = tokenize(source.load(index, 0).segments, tokenizer, layout=layout_of(name))
        assert text.tokens.tolist() == expected[: len(text.tokens)]
        assert theirs.decode(expected[len(text.tokens) :]) in ("", "\n")
        assert measured.lengths.tokens[index] == len(text.tokens)
        table = tokenize(spelled_here.load(index, 0).segments, tokenizer, layout=layout_of(name))
        assert text.loss.tolist() == table.loss.tolist()


def test_words_of_a_user_never_become_control_tokens(family, tmp_path):
    name, _ = family
    words = list(dict.fromkeys(["<s>", "</s>", "<image>", *CONTROL[name]]))
    where = folder_of(tmp_path / "model", JINJA[name], words)
    said = "".join(words) + "<<s>s>"
    chats = [[("system", said), ("user", said), ("assistant", said)] for said in ("hello", said.replace("<image>", ""))]
    tokenizer, source = ours(family), read_chats(tmp_path, chats, chat_template=where)
    plain, hostile = (
        tokenize(source.load(index, 0).segments, tokenizer, layout=layout_of(name)).tokens for index in range(2)
    )
    marks = [*tokenizer.special.values(), *map(tokenizer.control, CONTROL[name])]
    assert plain[np.isin(plain, marks)].tolist() == hostile[np.isin(hostile, marks)].tolist()
    assert tokenizer.decode(hostile).count(chats[1][0][1]) == 3


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.json", "chat_template.jinja"])
def test_where_templates_are_found(tmp_path, name):
    where = folder_of(tmp_path / "model", JINJA["chatml"], name=name)
    for path in (where, f"{where}/{name}"):
        template = pickle.loads(pickle.dumps(ModelTemplate(path, PICTURE_WORDS)))
        assert (template.typed, template.pictures, template.bos) == (False, False, "<s>")
        assert spelled(template, [*CHATS[0][:1], ("assistant", "Yes.")]).endswith("assistant\n<<Yes.>><<<|im_end|>>>")
    assert ModelTemplate(where).fingerprint != ModelTemplate(folder_of(tmp_path / "b", MARKED, name=name)).fingerprint


def test_what_a_template_marks_is_learned(tmp_path):
    marked = ModelTemplate(folder_of(tmp_path / "model", MARKED))
    assert spelled(marked, [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " d ")]) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<<b>><<<|im_end|>>><<\n>>"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n<< d >><<<|im_end|>>><<\n>>"
    )


def test_masks_are_those_of_transformers(family, tmp_path):
    name, path = family
    if name != "chatml":
        pytest.skip("the marked template is of ChatML")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=path, bos_token="<s>", eos_token="</s>", chat_template=MARKED
    )
    where = folder_of(tmp_path / "model", MARKED, list(CONTROL[name]))
    tokenizer, source = ours(family), read_chats(tmp_path, CHATS[2:], chat_template=where)
    turns = [{"role": role, "content": text} for role, text in CHATS[2][:-1]]
    expected = theirs.apply_chat_template(turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    text = tokenize(source.load(0, 0).segments, tokenizer, layout=layout_of(name), eos=False)
    assert text.tokens.tolist() == expected["input_ids"]
    assert text.loss.astype(int).tolist() == expected["assistant_masks"]


def test_pictures_where_the_template_shows_them(tmp_path):
    (tmp_path / "0.jpg").write_bytes(picture(0))
    template = ModelTemplate(folder_of(tmp_path / "model", TYPED), PICTURE_WORDS)
    assert template.typed and template.pictures
    shown = Media((np.zeros((4, 4, 3), np.uint8),))
    chat = [("user", (" Is it ", shown, " or ", shown, "?")), ("assistant", ("Yes <image> ",))]
    assert spelled(template, chat, "Be <s> brief.") == (
        "<|im_start|>system\nBe <s> brief.<|im_end|>\n<|im_start|>user\n[picture]\n[picture]\nIs itor?<|im_end|>\n"
        "<|im_start|>assistant\n<<Yes <image>>><<<|im_end|>>>"
    )
    plain = ModelTemplate(folder_of(tmp_path / "plain", JINJA["chatml"]), PICTURE_WORDS)
    assert spelled(plain, chat).startswith("<|im_start|>user\n Is it [picture] or [picture]?<|im_end|>")


def test_turns_that_are_not_learned(tmp_path):
    template = ModelTemplate(folder_of(tmp_path / "model", JINJA["chatml"]))
    turns = [Message("user", ("a",)), Message("assistant", ("b",), False), Message("user", ("c",))]
    parts = templated_segments([*turns, Message("assistant", ("d",))], template, None, "a record")
    assert [part.text for part in parts if part.loss] == ["d", "<|im_end|>"]
    for wrong, kind in (
        ([Message("user", ("a",))], "bad_record"),
        ([Message("assistant", ("a",))], "bad_record"),
        ([Message("user", ("a",)), Message("assistant", (" ",))], "empty_text"),
        ([Message("user", ("a\ufdd1",)), Message("assistant", ("b",))], "bad_text"),
    ):
        with pytest.raises(DataError) as caught:
            templated_segments(wrong, template, None, "a record")
        assert caught.value.kind == kind


def test_answers_that_change_when_others_follow_are_refused(tmp_path):
    only_last = (
        "{% for m in messages %}<|im_start|>{{ m.content if loop.last or m.role == 'user' else '' }}{% endfor %}"
    )
    template = ModelTemplate(folder_of(tmp_path / "model", only_last))
    with pytest.raises(DataError, match="writes an answer otherwise"):
        spelled(template, [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")])


def test_what_a_template_refuses_is_a_bad_record(tmp_path):
    strict = JINJA["chatml"] + "{% if messages[0].role == 'system' %}{{ raise_exception('No system.') }}{% endif %}"
    template = ModelTemplate(folder_of(tmp_path / "model", strict))
    with pytest.raises(DataError, match="does not take its turns: _Refused: No system"):
        spelled(template, CHATS[1])


HOSTILE = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['os'].system('touch stolen') }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('touch stolen').read() }}",
    "include": "{% include '/etc/passwd' %}",
    "changes": "{% set _ = messages.append(1) %}{{ messages | length }}",
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "large": "{{ 'a' * 10**10 }}",
    "doubles": "{% set s = namespace(x='a') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}{{ s.x }}",
    "deep": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "syntax": "{% for %}",
    "folded": "{{ 9**(9**9) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_do_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_template, "SECONDS", 5.0)
    with pytest.raises(ConfigError, match=r"chat template of .* cannot be used") as caught:
        ModelTemplate(folder_of(tmp_path / "model", HOSTILE[name] + JINJA["chatml"]))
    assert "root:" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_template_that_turns_hostile_is_ended_and_started_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(model_template, "SECONDS", 5.0)
    turns = "{% if messages[0].content == 'x' %}" + HOSTILE["endless"] + "{% endif %}" + JINJA["chatml"]
    template = ModelTemplate(folder_of(tmp_path / "model", turns))
    with pytest.raises(RenderError, match="more than 5 seconds"):
        template.render([([{"role": "user", "content": "x"}], False)])
    assert template.render([([{"role": "user", "content": "y"}], False)]) == ["<|im_start|>user\ny<|im_end|>\n"]


def test_folders_without_a_template(tmp_path):
    with pytest.raises(ConfigError, match="holds none"):
        ModelTemplate(str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text(JINJA["chatml"])
    with pytest.raises(ConfigError, match="names its added tokens"):
        ModelTemplate(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(ConfigError, match="is not JSON"):
        ModelTemplate(str(tmp_path))


def test_another_template_is_measured_anew(tmp_path):
    keys = set()
    for template in (JINJA["chatml"], MARKED):
        where = folder_of(tmp_path / "model", template)
        model_template.open_template.cache_clear()
        keys.add(read_chats(tmp_path, CHATS, chat_template=where).fingerprint)
    keys.add(read_chats(tmp_path, CHATS).fingerprint)
    assert len(keys) == 3
    text = make("chat", paths=(str(tmp_path / "chat.jsonl"),), chat_template=where).load(0, 0).segments
    assert Text("<|im_end|>", loss=True, control=True) in text
    assert ENDS["chatml"] == "<|im_end|>"
