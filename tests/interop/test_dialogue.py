"""Conversations with models of folders: turn by turn, what transformers writes after the whole of each."""

from __future__ import annotations

import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Media
from mmjax.data.sources.conversation import Message
from mmjax.decoding.conversation import Conversation
from mmjax.decoding.sampling import Sampling
from mmjax.decoding.scheduler import Request, Scheduler
from mmjax.interop.dialogue import FolderDialogue
from mmjax.interop.pretrained import load_pretrained
from mmjax.interop.reading import FolderPrompt, FolderReader
from mmjax.text.chat import SPELLINGS
from tests.interop.picture_samples import ALL
from tests.interop.test_pretrained import TEXT, llava
from tests.interop.test_processing_prompts import tokenizer
from tests.parity.reference_models import build

pytestmark = pytest.mark.usefixtures("quick_programs")

TEMPLATE = """{{ bos_token }}{% for message in messages %}{{ message['role'] }}: \
{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}\
{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
PLAIN = """{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}\
{% if add_generation_prompt %}<assistant>{% endif %}"""


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """A tiny LLaVA with a chat template: the reference's model and processor, and its folder."""
    folder = tmp_path_factory.mktemp("llava")
    model, processor = llava(folder)
    processor.chat_template = TEMPLATE
    processor.save_pretrained(folder)
    return model, processor, folder


@pytest.fixture(scope="module")
def text_alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    names = tokenizer()
    settings = {"vocab_size": len(names), **TEXT, "eos_token_id": names.eos_token_id, "pad_token_id": 0}
    model = build("LlamaForCausalLM", "LlamaConfig", 3, **settings)
    model.save_pretrained(folder)
    names.chat_template = PLAIN
    names.save_pretrained(folder)
    return model, names, folder


def shown(name):
    return Media((np.asarray(ALL[name].convert("RGB")),))


def typed(message):
    parts = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in message.parts]
    return {"role": message.role, "content": parts}


def test_turns_with_pictures(pictured):
    model, processor, folder = pictured
    dialogue = FolderDialogue(FolderReader(load_pretrained(folder)), folder)
    assert dialogue.has_template
    conversation = Conversation(dialogue.reader, length=192)
    messages, names, held = [], [], 0
    for turn, pictures in (
        (Message("user", (shown("odd"), " a cat")), ["odd"]),
        (Message("user", ("What is it?",)), []),
        (Message("user", ("and ", shown("portrait"), "?")), ["portrait"]),
    ):
        messages.append(turn)
        names += pictures
        prepared = dialogue.prepare(messages)
        text = processor.apply_chat_template([typed(one) for one in messages], add_generation_prompt=True)
        given = processor(text=[text.removeprefix("<s>")], images=[[ALL[name] for name in names]], return_tensors="pt")
        assert prepared.tokens.tolist() == given["input_ids"][0].tolist()
        read = conversation.read(prepared)
        # The answer is not always spelled by the tokens that it was written in.
        assert read < len(prepared.tokens) - held / 2 if held else read == len(prepared.tokens)
        tokens = [chosen.token for chosen in conversation.write(Sampling(), 5)]
        expected = model.generate(**given, max_new_tokens=5, do_sample=False)[0, len(prepared.tokens) :]
        assert tokens == expected.tolist()
        held = conversation.held
        messages.append(Message("assistant", (dialogue.reader.decode(tokens),)))


def test_turns_of_text_alone(text_alone):
    model, names, folder = text_alone
    dialogue = FolderDialogue(FolderReader(load_pretrained(folder)), folder)
    conversation = Conversation(dialogue.reader, length=96)
    messages = [Message("system", ("short",))]
    for said in ("a cat", "two dogs"):
        messages.append(Message("user", (said,)))
        flat = [{"role": one.role, "content": "".join(one.parts)} for one in messages]
        text = names.apply_chat_template(flat, add_generation_prompt=True, tokenize=False)
        given = names([text], return_tensors="pt")
        prepared = dialogue.prepare(messages)
        assert prepared.tokens.tolist() == given["input_ids"][0].tolist()
        conversation.read(prepared)
        tokens = [chosen.token for chosen in conversation.write(Sampling(), 5)]
        expected = model.generate(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=5, do_sample=False
        )
        assert tokens == expected[0, len(prepared.tokens) :].tolist()
        messages.append(Message("assistant", (dialogue.reader.decode(tokens),)))
    with pytest.raises(InputError, match="reads no pictures"):
        dialogue.prepare([Message("user", (shown("odd"), "a cat"))])


def test_a_spelling_in_the_place_of_a_template(pictured):
    _, processor, folder = pictured
    dialogue = FolderDialogue(FolderReader(load_pretrained(folder)), folder, spelling=SPELLINGS["bare"])
    prepared = dialogue.prepare([Message("user", (shown("odd"), "a cat"))])
    given = processor(text=["<image>a cat\n"], images=[[ALL["odd"]]])
    assert prepared.tokens.tolist() == given["input_ids"][0]


def test_requests_of_a_folder_are_scheduled(pictured):
    """Prompts with one, two and no pictures at the same time, as transformers continues each alone."""
    model, processor, folder = pictured
    reader = FolderReader(load_pretrained(folder))
    prompts = [
        FolderPrompt("<image> a cat", (ALL["odd"],)),
        FolderPrompt("two <image> dogs <image>", (ALL["portrait"], ALL["alpha"])),
        FolderPrompt("a cat"),
    ]
    scheduler = Scheduler(reader, slots=2, length=96)
    replies = [scheduler.submit(Request(prompt, 6)) for prompt in prompts]
    scheduler.run()
    for prompt, reply in zip(prompts, replies, strict=True):
        pictures = {"images": [list(prompt.pictures)]} if prompt.pictures else {}
        given = processor(text=[prompt.text], **pictures, return_tensors="pt")
        expected = model.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
        assert reply.result(timeout=0).tokens.tolist() == expected.tolist()
    with pytest.raises(InputError, match="placeholders"):
        scheduler.submit(Request(FolderPrompt("<image> a cat"), 6))
