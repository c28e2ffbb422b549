"""`mmjax.load_pretrained`: prompts and pictures go in as they go into the reference, and the same comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mmjax
from mmjax.core.errors import InputError
from mmjax.interop.engine import export
from mmjax.interop.families import FAMILIES
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.interop.picture_samples import ALL
from tests.interop.test_assembled import random_pretrained
from tests.interop.test_processing_prompts import CLIP, SQUARE, expanding, pictures_side, tokenizer
from tests.parity.reference_models import build, relative_error, torch, transformers

VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 28,
    "patch_size": 14,
}
TEXT = {"hidden_size": 30, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 26}


def llava(folder):
    processor, _ = expanding("LlavaProcessor", vision_feature_select_strategy="default", num_additional_image_tokens=1)
    names = processor.tokenizer
    model = build(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        4,
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", "vocab_size": len(names), **TEXT},
        image_token_index=names.convert_tokens_to_ids("<image>"),
    )
    model.generation_config.update(eos_token_id=names.eos_token_id, pad_token_id=names.pad_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def test_answers_with_pictures(tmp_path, quick_programs):
    model, processor = llava(tmp_path)
    prompts = ["<image> a cat", "What is in the picture? <image><image>"]
    rows = [[ALL["odd"]], [ALL["portrait"], ALL["alpha"]]]
    processor.tokenizer.padding_side = "left"
    given = processor(text=prompts, images=rows, return_tensors="pt", padding=True)
    expected = model.generate(**given, max_new_tokens=6, do_sample=False)
    loaded = mmjax.load_pretrained(tmp_path)
    arrays = loaded.prepare(prompts, rows, pad="left")
    assert set(arrays) == {"input_ids", "attention_mask", "pixel_values"}
    for name, value in arrays.items():
        assert np.allclose(value, given[name], atol=1e-6), name
    assert np.array_equal(loaded.generate(max_new_tokens=6, **arrays), expected)
    written = processor.batch_decode(expected[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert loaded.answer(prompts, rows, max_new_tokens=6) == written
    with pytest.raises(InputError, match="placeholders"):
        loaded.prepare("a cat", [ALL["odd"]])
    with pytest.raises(InputError, match="generate_beams is not known of the family llava; known are: forward"):
        loaded("generate_beams", **arrays)


def test_two_towers_on_a_mesh(tmp_path, quick_programs):
    side = pictures_side("CLIPImageProcessor", **CLIP)
    processor = transformers.CLIPProcessor(side, tokenizer())
    names = processor.tokenizer
    text = {"vocab_size": len(names), **TEXT, "max_position_embeddings": 30, "eos_token_id": names.eos_token_id}
    model = build("CLIPModel", "CLIPConfig", 5, vision_config=VISION, text_config=text, projection_dim=18)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    texts, pictures = ["a photo of a cat</s>", "two dogs</s>"], [ALL["odd"], ALL["grey"], ALL["alpha"]]
    with torch.no_grad():
        expected = model(**processor(text=texts, images=pictures, return_tensors="pt", padding=True))
    loaded = mmjax.load_pretrained(tmp_path, mesh=make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert any(not leaf.sharding.is_fully_replicated for leaf in loaded.parameters.values())
    ours = loaded(**loaded.prepare(texts, pictures))
    for name in ("logits_per_image", "image_embeds", "text_embeds"):
        assert relative_error(ours[name], expected[name]) < 2e-5
    alone = loaded("get_image_features", **loaded.prepare(pictures=pictures))
    assert relative_error(alone[""] / np.linalg.norm(alone[""], axis=-1, keepdims=True), expected.image_embeds) < 2e-5


def open_flamingo(folder):
    """A small random model in `folder`, and its tokenizer and picture side as the reference has them."""
    names, side = tokenizer(bos=False), pictures_side("CLIPImageProcessor", **CLIP)
    # The end of a chunk is appended, as the tokenizer lacks it.
    chunk, media = len(names), names.convert_tokens_to_ids("<image>")
    outside = {
        **{"model_type": "open_flamingo", "media_token_id": media, "eoc_token_id": chunk},
        "vision_cfg": {"layers": 1, "width": 12, "head_width": 6, "image_size": 28, "patch_size": 14},
        "lang": {"model_type": "llama", "vocab_size": chunk + 1, **TEXT},
        **{"cross_attn_every_n_layers": 1, "heads": 2, "dim_head": 4, "depth": 1, "latents": 2},
    }
    export(random_pretrained(FAMILIES["open_flamingo"], outside), folder)
    names.save_pretrained(folder)
    side.save_pretrained(folder)
    return names, side


def test_open_flamingo(tmp_path, quick_programs):
    """Prompts and pictures of several lengths, as its evaluation puts them together."""
    names, side = open_flamingo(tmp_path / "it")
    loaded = mmjax.load_pretrained(tmp_path / "it")
    prompts = ["<image> a cat<|endofchunk|><image>", "two dogs"]
    arrays = loaded.prepare(prompts, [[ALL["odd"], ALL["portrait"]], []], pad="left")
    names.add_special_tokens({"additional_special_tokens": ["<|endofchunk|>", "<image>"]})
    names.padding_side = "left"
    expected = names(prompts, return_tensors="np", padding=True)
    assert np.array_equal(arrays["lang_x"], expected["input_ids"])
    assert np.array_equal(arrays["attention_mask"], expected["attention_mask"])
    pixels = side([ALL["odd"], ALL["portrait"]], return_tensors="np")["pixel_values"]
    assert arrays["vision_x"].shape == (2, 2, 1, 3, 28, 28) and not arrays["vision_x"][1].any()
    assert np.allclose(arrays["vision_x"][0, :, 0], pixels, atol=1e-6)
    assert loaded(**arrays)["logits"].shape == (*arrays["lang_x"].shape, len(names))
    assert len(loaded.answer(prompts, [[ALL["odd"], ALL["portrait"]], []], max_new_tokens=2)) == 2
    config = json.loads((tmp_path / "it" / "config.json").read_text())
    (tmp_path / "it" / "config.json").write_text(json.dumps(config | {"eoc_token_id": 5}))
    with pytest.raises(InputError, match=r"eoc_token_id=5, but <\|endofchunk\|> is"):
        mmjax.load_pretrained(tmp_path / "it")


def test_an_encoder_with_a_decoder(tmp_path, quick_programs):
    """Whose processor is that of its pictures, and whose texts begin with a token of config.json."""
    names, side = tokenizer(bos=False), pictures_side("ViTImageProcessor", **SQUARE)
    text = {"n_embd": 20, "n_layer": 1, "n_head": 2, "n_positions": 20, "add_cross_attention": True}
    ends = {"eos_token_id": names.eos_token_id, "pad_token_id": names.pad_token_id}
    model = build(
        "VisionEncoderDecoderModel",
        "VisionEncoderDecoderConfig",
        8,
        encoder={"model_type": "vit", **VISION},
        decoder={"model_type": "gpt2", "vocab_size": len(names), "bos_token_id": names.bos_token_id, **text, **ends},
        decoder_start_token_id=names.bos_token_id,
        **ends,
    )
    model.save_pretrained(tmp_path)
    names.save_pretrained(tmp_path)
    side.save_pretrained(tmp_path)
    loaded = mmjax.load_pretrained(tmp_path)
    pictures = [ALL["odd"], ALL["portrait"]]
    pixels = side(pictures, return_tensors="pt")["pixel_values"]
    arrays = loaded.prepare(["", "a cat"], pictures)
    assert arrays["decoder_input_ids"][0, 0] == names.bos_token_id
    assert arrays["decoder_attention_mask"].sum(axis=1).tolist() == [1, 1 + len(names("a cat")["input_ids"])]
    assert np.allclose(arrays["pixel_values"], pixels, atol=1e-6)
    expected = model.generate(pixels, max_new_tokens=4, do_sample=False)
    written = names.batch_decode(expected[:, 1:], skip_special_tokens=True)
    assert loaded.answer(["", ""], pictures, max_new_tokens=4) == written


def test_a_hub_name_and_arguments_that_are_not_read(tmp_path, monkeypatch, quick_programs):
    sizes = {"vocab_size": 20, "n_positions": 8, "n_embd": 12, "n_layer": 1, "n_head": 2}
    build("GPT2LMHeadModel", "GPT2Config", 7, **sizes).save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path))
    loaded, tokens = mmjax.load_pretrained("someone/tiny"), np.arange(4)[None] + 3
    assert loaded.pretrained.config.width == 12 and asked == ["someone/tiny"]
    assert "logits" in loaded(input_ids=tokens, output_hidden_states=True)
    with pytest.raises(InputError, match="forward of the family gpt2 does not read head_mask, logits_to_keep here"):
        loaded(input_ids=tokens, head_mask=np.ones((1, 2)), logits_to_keep=1)


def test_text_alone(tmp_path, quick_programs):
    names = tokenizer()
    model = build("LlamaForCausalLM", "LlamaConfig", 6, vocab_size=len(names), **TEXT, tie_word_embeddings=True)
    model.generation_config.update(eos_token_id=names.eos_token_id, pad_token_id=names.pad_token_id)
    model.save_pretrained(tmp_path)
    names.save_pretrained(tmp_path)
    loaded = mmjax.load_pretrained(tmp_path)
    names.padding_side = "left"
    given = names(["A red car", "Two"], return_tensors="pt", padding=True, return_token_type_ids=False)
    expected = model.generate(**given, max_new_tokens=5, do_sample=False)
    written = names.batch_decode(expected[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert loaded.answer(["A red car", "Two"], max_new_tokens=5) == written
    with pytest.raises(InputError, match="no processor for prompts with pictures"):
        loaded.prepare("a cat", [ALL["odd"]])
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        mmjax.load_pretrained(tmp_path).prepare("a cat")


def test_what_would_be_silently_wrong_is_refused(tmp_path, quick_programs):
    llava(tmp_path / "llava")
    loaded = mmjax.load_pretrained(tmp_path / "llava")
    arrays = loaded.prepare(["<image> a cat"], [[ALL["odd"]]])
    arrays["pixel_values"] = np.concatenate([arrays["pixel_values"]] * 2)
    for ask in (loaded, loaded.generate):
        with pytest.raises(InputError, match="the text has 4 image tokens for the 8 vectors of its pictures"):
            ask(**arrays)
    sizes = {"vocab_size": 20, "n_positions": 8, "n_embd": 12, "n_layer": 1, "n_head": 2}
    build("GPT2LMHeadModel", "GPT2Config", 7, **sizes).save_pretrained(tmp_path / "gpt2")
    short = mmjax.load_pretrained(tmp_path / "gpt2")
    tokens = np.arange(4)[None] + 3
    assert short.generate(max_new_tokens=5, input_ids=tokens).shape == (1, 9)
    with pytest.raises(InputError, match="the model has 8 positions, and 6 tokens after this prompt would need 9"):
        short.generate(max_new_tokens=6, input_ids=tokens)
