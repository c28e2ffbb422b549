"""Training from imported weights: the loss of the first step is the one that transformers gives for the same rows."""

import jax
import numpy as np
import pytest

from mmjax.core.config import to_tree
from mmjax.models.inline import prefix_of
from mmjax.parallel.sharding import parameter_shardings
from mmjax.training.pretrained import import_checkpoint, initial_params
from mmjax.training.state import replace_params
from tests.parity.reference_models import torch, transformers
from tests.training.tiny_runs import TinyRun

SIZE, PATCH, IMAGE = 32, 16, 3
LAYERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURES = {**LAYERS, "image_size": SIZE, "patch_size": PATCH}
WORDS = {**LAYERS, "vocab_size": 264, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

pytestmark = pytest.mark.usefixtures("quick_programs")


def clip():
    text = {**WORDS, "max_position_embeddings": 40}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=PICTURES, projection_dim=16))


def siglip():
    text = {**WORDS, "max_position_embeddings": 40}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=PICTURES))


def llava():
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **PICTURES},
        text_config={"model_type": "llama", **WORDS},
        image_token_index=IMAGE,
        vision_feature_layer=-2,
    )
    return transformers.LlavaForConditionalGeneration(config)


def paligemma():
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, "projection_dim": 16, **PICTURES},
        text_config={"model_type": "gemma", "head_dim": 8, "num_key_value_heads": 1, **WORDS},
        image_token_index=IMAGE,
        projection_dim=16,
        hidden_size=16,
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


MODELS = {"clip_l14": clip, "siglip_so400m": siglip, "llava_1_5_7b": llava, "paligemma_3b": paligemma}


def reference_loss(name, model, batch, config):
    """What transformers makes of the batch, whose rows have one picture each."""
    mean, std = (np.asarray(x, np.float32) for x in (config.image_mean, config.image_std))
    pixels = (np.asarray(batch.images[:, 0], np.float32) / 255 - mean) / std
    tokens, there = np.asarray(batch.tokens), np.asarray(batch.segment_ids > 0)
    given = {"input_ids": tokens, "pixel_values": pixels.transpose(0, 3, 1, 2)}
    if name in ("clip_l14", "llava_1_5_7b", "paligemma_3b"):
        given["attention_mask"] = there.astype(np.int64)
    if name in ("clip_l14", "siglip_so400m"):
        given["return_loss"] = True
    else:
        learned = np.pad(np.asarray(batch.loss_weights > 0), ((0, 0), (1, 0)))[:, :-1]
        given["labels"] = np.where(learned, tokens, -100)
    if name == "paligemma_3b":
        given["token_type_ids"] = np.where(np.asarray(prefix_of(batch)), 0, 1)
    as_torch = {
        key: torch.tensor(value.astype(np.int64) if value.dtype.kind == "i" else value)
        if isinstance(value, np.ndarray)
        else value
        for key, value in given.items()
    }
    with torch.no_grad():
        return model.train()(**as_torch).loss.item()


@pytest.mark.parametrize("name", MODELS)
def test_the_first_loss_is_that_of_transformers(name, tmp_path):
    torch.manual_seed(1)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "outside")
    found = import_checkpoint(tmp_path / "outside", tmp_path / "in")
    sources = "data.sources={'read': {'kind': 'digits_read', 'options': {'shots': [0], 'question': 'which?'}}}"
    run = TinyRun(
        sources,
        "data.pack=False",
        f"init_from={tmp_path / 'in'}",
        f"model.config={to_tree(found.config)!r}",
        "data.images=1",
        "data.length=40",
        name=name,
    )
    shardings = parameter_shardings(run.plan.shapes, run.plan.axes, run.mesh)
    params = initial_params(run.config, run.plan.shapes, shardings, run.mesh)
    assert set(params) == set(run.plan.shapes)
    state = replace_params(run.first_state(), params)
    batch = run.read(0)
    loss, tally = jax.block_until_ready(run.loss(blank=False)(state, batch))
    expected = reference_loss(name, model, jax.device_get(batch), run.model.config)
    assert float(tally.weight[0]) > 0
    np.testing.assert_allclose(float(loss), expected, rtol=2e-5)
