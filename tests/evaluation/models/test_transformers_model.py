"""A model of transformers through the harness gives what transformers itself gives."""

from __future__ import annotations

import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.decoding.prompt import Prompt
from mmjax.evaluation.models.layouts import lay_out_prompt
from mmjax.evaluation.models.transformers_model import TransformersModel
from tests.interop.picture_samples import ALL
from tests.interop.test_pretrained import TEXT, VISION, llava
from tests.interop.test_processing_prompts import CLIP, pictures_side, tokenizer
from tests.parity.reference_models import build, torch, transformers

PICTURES = [Media((np.asarray(ALL[name].convert("RGB")),)) for name in ("odd", "portrait")]
PROMPT = Prompt((PICTURES[0], Text(" a red car", end_of_chunk=True), PICTURES[1], Text(" a blue")))


def silent(done):
    pass


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    model, processor = llava(folder)
    return TransformersModel(folder), model, processor


def read(processor, text):
    images = [[medium.load()[0] for medium in PICTURES]]
    return processor(text=[text], images=images, return_tensors="pt")


def test_what_is_written_ends_before_a_stop_string(opened):
    ours, model, processor = opened
    given = read(processor, "<image> a red car\n<image> a blue")
    tokens = model.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
    whole = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    assert ours.write([PROMPT], max_tokens=8, stop=(), beams=1, progress=silent) == [whole]
    stop = whole[2:4]
    assert ours.write([PROMPT], max_tokens=8, stop=[stop], beams=1, progress=silent) == [whole[: whole.index(stop)]]


def test_continuations_are_rated_as_behind_the_prompt(opened):
    ours, model, processor = opened
    answers = [" car", " house, and two dogs"]
    [rated] = ours.rate([PROMPT], [[Text(answer) for answer in answers]], progress=silent)
    for answer, told, length in zip(answers, rated.log_likelihoods, rated.lengths, strict=True):
        count = len(processor.tokenizer(answer, add_special_tokens=False)["input_ids"])
        given = read(processor, f"<image> a red car\n<image> a blue{answer}")
        with torch.no_grad():
            scores = torch.log_softmax(model(**given).logits[0, -count - 1 : -1], -1)
        expected = float(scores[torch.arange(count), given["input_ids"][0, -count:]].sum())
        assert (length, told) == (count, pytest.approx(expected, rel=1e-5))
    assert rated.log_likelihoods[0] != pytest.approx(rated.log_likelihoods[1], rel=1e-2)
    with pytest.raises(InputError, match="has no token"):
        ours.rate([PROMPT], [[Text("")]], progress=silent)


def test_two_towers_compare_pictures_with_texts(tmp_path):
    names = tokenizer()
    text = {"vocab_size": len(names), **TEXT, "max_position_embeddings": 30, "eos_token_id": names.eos_token_id}
    model = build("CLIPModel", "CLIPConfig", 5, vision_config=VISION, text_config=text, projection_dim=18)
    model.save_pretrained(tmp_path)
    processor = transformers.CLIPProcessor(pictures_side("CLIPImageProcessor", **CLIP), names)
    processor.save_pretrained(tmp_path)
    ours, texts = TransformersModel(tmp_path), ["a cat</s>", "two dogs in the shade</s>"]
    pictures = [medium.load()[0] for medium in PICTURES]
    with torch.no_grad():
        expected = model(**processor(text=texts, images=pictures, return_tensors="pt", padding=True))
    seen, said = ours.embed_pictures(PICTURES, progress=silent), ours.embed_texts(texts, progress=silent)
    np.testing.assert_allclose(seen, expected.image_embeds, atol=1e-5)
    np.testing.assert_allclose(said, expected.text_embeds, atol=1e-5)
    with pytest.raises(InputError, match="does not write text"):
        ours.write([PROMPT], max_tokens=1, stop=(), beams=1, progress=silent)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        TransformersModel(tmp_path)


@pytest.mark.parametrize(
    "processor, placeholder, expected",
    [
        ("LlavaProcessor", "<image>", "<image> a red car\n<image> a blue"),
        ("OpenFlamingo", "<image>", "<image> a red car<|endofchunk|><image> a blue"),
        (
            "Qwen2_5_VLProcessor",
            "<|image_pad|>",
            "<|vision_start|><|image_pad|><|vision_end|> a red car\n<|vision_start|><|image_pad|><|vision_end|> a blue",
        ),
    ],
)
def test_layouts(processor, placeholder, expected):
    assert lay_out_prompt(PROMPT, processor, placeholder) == (expected, PICTURES)


def test_layouts_of_lists_and_of_one_picture():
    listed, beside = lay_out_prompt(PROMPT, "IdeficsProcessor", "<image>")
    assert beside == [] and [item for item in listed if isinstance(item, str)] == [" a red car\n", " a blue"]
    assert [item.size for item in listed if not isinstance(item, str)] == [ALL["odd"].size, ALL["portrait"].size]
    alone = Prompt((PICTURES[0], Text(" a")))
    assert lay_out_prompt(alone, "Blip2Processor", "<image>") == (" a", PICTURES[:1])
    with pytest.raises(InputError, match="takes one"):
        lay_out_prompt(PROMPT, "Blip2Processor", "<image>")
