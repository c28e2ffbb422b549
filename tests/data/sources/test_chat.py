"""LLaVA, ShareGPT and messages: how turns are spelled, and that only answers are learned."""

import json

import pytest

from mmjax.core.errors import DataError
from mmjax.text.chat import SPELLINGS
from tests.data.sources.made import make, picture, read

SYSTEM = SPELLINGS["vicuna"].system


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "coco").mkdir()
    for number in range(3):
        (tmp_path / "coco" / f"{number}.jpg").write_bytes(picture(number))
    return tmp_path


def kind_of(source, index):
    with pytest.raises(DataError) as caught:
        read(source, index)
    return caught.value.kind


LLAVA = [
    {
        "id": "000000033471",
        "image": "coco/0.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A bus."},
            {"from": "human", "value": "Which colour?"},
            {"from": "gpt", "value": "Red."},
        ],
    },
    {
        "id": "1",
        "image": "coco/1.jpg",
        "conversations": [{"from": "human", "value": "Say it.\n<image>"}, {"from": "gpt", "value": "Green."}],
    },
    {"id": "2", "conversations": [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]},
]


def test_llava_is_spelled_as_its_first_version_does(folder):
    (folder / "llava.json").write_text(json.dumps(LLAVA, indent=1))
    source = make("llava", paths=(str(folder / "llava.json"),), images=str(folder))
    assert len(source) == 3
    assert read(source, 0) == (
        f"{SYSTEM}USER: [red]\nWhat is it? ASSISTANT:< A bus.>¶USER: Which colour? ASSISTANT:< Red.>"
    )
    assert read(source, 1) == f"{SYSTEM}USER: [lime]\nSay it. ASSISTANT:< Green.>"
    assert read(source, 2) == f"{SYSTEM}USER: Hello? ASSISTANT:< Hello.>"


def test_other_templates(folder):
    (folder / "llava.json").write_text(json.dumps(LLAVA))
    paths = (str(folder / "llava.json"),)
    assert read(make("llava", paths=paths, template="plain"), 0) == "[red]<A bus.>¶<Red.>"
    assert read(make("llava", paths=paths, template="bare", end_of_chunk=False), 1) == "[lime]Say it.\n<Green.>"
    assert read(make("llava", paths=paths, system=""), 2) == "USER: Hello? ASSISTANT:< Hello.>"
    assert read(make("llava", paths=paths, system="Be kind. "), 2) == "Be kind. USER: Hello? ASSISTANT:< Hello.>"


CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image> and <image>?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "And <image>?"},
            {"role": "assistant", "content": "Three.", "loss": False},
        ],
        "images": ["coco/0.jpg", "coco/1.jpg", "coco/2.jpg"],
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "coco/2.jpg"},
                    {"type": "text", "text": "Which?"},
                    {"type": "image_url", "image_url": {"url": "coco/1.jpg"}},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Blue."}]},
        ]
    },
    {
        "conversations": [{"from": "human", "value": "Both?"}, {"from": "gpt", "value": "Yes."}],
        "images": ["coco/0.jpg"],
    },
    {"conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "No picture."}]},
    {"messages": [{"role": "assistant", "content": "I begin."}]},
    {"messages": [{"role": "user", "content": "No answer."}]},
    {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": " "}]},
    {"messages": [{"role": "user", "content": "?"}, {"role": "tool", "content": "x"}]},
    {"messages": [{"role": "user", "content": {"a": 1}}, {"role": "assistant", "content": "x"}]},
    {"messages": []},
    {"messages": [{"role": "user", "content": "?"}] + [{"role": "assistant", "content": "x"}] * 2},
]


def test_chats_with_any_number_of_pictures(folder):
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(chat)}\n" for chat in CHATS))
    source = make("chat", paths=(str(folder / "a.jsonl"),))
    assert read(source, 0) == (
        "Be brief. USER: [red] and [lime]? ASSISTANT:< Two.>¶USER: And [blue]? ASSISTANT: Three."
    )
    assert read(source, 1) == f"{SYSTEM}USER: [blue]Which?[lime] ASSISTANT:< Blue.>"
    assert read(source, 2) == f"{SYSTEM}USER: [red]Both? ASSISTANT:< Yes.>"
    kinds = ["bad_record"] * 3 + ["empty_text"] + ["bad_record"] * 4
    assert [kind_of(source, index) for index in range(3, 11)] == kinds
