"""Models saved without their head, by the classes that have none: read, called, and given back bit for bit."""

from __future__ import annotations

import dataclasses

import pytest

from mmjax.interop.engine import inspect
from tests.parity.certificates import check
from tests.parity.reference_models import hugging_face
from third_party.oracles import FAMILIES, folders

# Family -> the class of its models without a head.
CLASSES = {
    "llava": "LlavaModel",
    "mllama": "MllamaModel",
    "idefics3": "Idefics3Model",
    "qwen2_5_vl": "Qwen2_5_VLModel",
    "llava_next": "LlavaNextModel",
    "smolvlm": "SmolVLMModel",
    "paligemma": "PaliGemmaModel",
    "gemma3": "Gemma3Model",
    "idefics": "IdeficsModel",
    "blip_2": "Blip2Model",
    "instructblip": "InstructBlipModel",
}
# Those whose outputs have other names than those of the class with a head.
_NAMED_OTHERWISE = {"blip_2", "instructblip"}
_QUICK = ("llava", "mllama")


@pytest.mark.parametrize("family", CLASSES)
def test_tensors_are_all_there(family, tmp_path):
    hugging_face.save(hugging_face.build(CLASSES[family], FAMILIES[family][0].settings), tmp_path)
    plan = inspect(tmp_path)
    assert set(plan.layout.entries) >= set(plan.tensors)
    assert not any("unembedding" in path for path in plan.layout.shapes)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in _QUICK else pytest.mark.slow)
        for family in CLASSES
        if family not in _NAMED_OTHERWISE
    ],
)
def test_certificate(family, tmp_path, quick_programs):
    whole = FAMILIES[family][0]

    def calls(random, settings):
        return [call for call in whole.calls(random, settings) if call.name == "whole"]

    variant = dataclasses.replace(whole, class_name=CLASSES[family], calls=calls, grads_of="whole/last_hidden_state")
    folders.write(tmp_path, variant, 0)
    check(tmp_path, gradients=True, roundtrip=True)
