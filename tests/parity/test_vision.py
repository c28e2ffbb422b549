"""Picture encoders against transformers: every output, other picture sizes, masked patches, gradients, round trips."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.interop.engine import load
from mmjax.parallel.sharding import nested
from tests.parity.reference_models import (
    build,
    check_export,
    gradient_error,
    relative_error,
    save_gradients,
    torch,
)
from tests.quick import quick_jit


def sizes(width, layers, heads, mlp, **more):
    base = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "patch_size": 4}
    return base | ({"intermediate_size": mlp} if mlp else {}) | {"image_size": 20} | more


# name -> (model, config, settings, picture height and width, what else to pass)
RESIZED = {"interpolate_pos_encoding": True}
CASES = {
    "vit-pooler": ("ViTModel", "ViTConfig", sizes(35, 3, 5, 22, pooler_output_size=13), (20, 20), {}),
    "vit-classifier": (
        "ViTForImageClassification",
        "ViTConfig",
        sizes(36, 2, 3, 50, hidden_act="gelu_new", num_labels=7),
        (28, 12),
        RESIZED,
    ),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", sizes(42, 3, 7, 30), (20, 20), {}),
    "clip-projected": (
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        sizes(36, 2, 3, 50, projection_dim=11, hidden_act="gelu"),
        (24, 36),
        RESIZED,
    ),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", sizes(35, 3, 5, 22) | {"image_size": 22}, (22, 22), {}),
    "siglip-headless": (
        "SiglipVisionModel",
        "SiglipVisionConfig",
        sizes(36, 2, 3, 50, vision_use_head=False),
        (12, 28),
        RESIZED,
    ),
    "dinov2": ("Dinov2Model", "Dinov2Config", sizes(35, 3, 5, None), (20, 20), {"bool_masked_pos": True}),
    "dinov2-swiglu": (
        "Dinov2Model",
        "Dinov2Config",
        sizes(36, 2, 3, None, use_swiglu_ffn=True, use_mask_token=False),
        (32, 16),
        {},
    ),
    "dinov2-registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        sizes(36, 2, 3, None, mlp_ratio=3),
        (12, 28),
        {"bool_masked_pos": True},
    ),
    "dinov2-registers-swiglu": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        sizes(35, 3, 5, None, use_swiglu_ffn=True, num_register_tokens=2),
        (28, 24),
        {},
    ),
}
# Where each output of the reference stands in ours.
OUTPUTS = {
    "last_hidden_state": lambda out, name: out.hidden[-1] if name.startswith("clip") else out.tokens,
    "pooler_output": lambda out, name: out.projected if name == "vit-pooler" else out.pooled,
    "image_embeds": lambda out, name: out.projected,
    "logits": lambda out, name: out.projected,
}


def make_inputs(size, extra):
    random = np.random.default_rng(0)
    pictures = random.normal(size=(3, *size, 3)).astype(np.float32)
    masked = random.random((3, size[0] * size[1] // 16)) < 0.3
    return pictures, masked if "bool_masked_pos" in extra else None


@pytest.mark.parametrize("name", CASES)
def test_parity(name, tmp_path):
    class_name, config_name, settings, size, extra = CASES[name]
    model = build(class_name, config_name, 1 + list(CASES).index(name), **settings)
    model.save_pretrained(tmp_path / "reference")
    pictures, masked = make_inputs(size, extra)
    if masked is not None:
        extra = {"bool_masked_pos": torch.tensor(masked)}

    def run(model):
        output = model(torch.tensor(pictures.transpose(0, 3, 1, 2)), **extra, output_hidden_states=True)
        return {key: output[key] for key in OUTPUTS if key in output}, output.hidden_states

    outputs, hidden = run(model)
    outputs = {key: value for key, value in outputs.items() if value is not None}
    random = np.random.default_rng(1)
    cotangents = {key: random.normal(size=value.shape).astype(np.float32) for key, value in outputs.items()}
    sum((outputs[key] * torch.tensor(cotangents[key])).sum() for key in outputs).backward()
    pretrained = load(tmp_path / "reference")

    def loss(parameters):
        output = pretrained.model().apply(nested(parameters), jnp.asarray(pictures), masked)
        ours = {key: OUTPUTS[key](output, name) for key in outputs}
        return sum(jnp.sum(ours[key] * cotangents[key]) for key in ours), (ours, output.hidden)

    gradients, (ours, our_hidden) = quick_jit(jax.grad(loss, has_aux=True))(pretrained.parameters)
    errors = {key: relative_error(ours[key], outputs[key].detach()) for key in outputs}
    # The last of the reference's hidden states may be that after the final norm; it is compared above.
    errors["hidden"] = relative_error(our_hidden[:-1], torch.stack(hidden).detach()[:-1])
    print(name, errors)
    assert len(our_hidden) == len(hidden)
    assert max(errors.values()) < 2e-5

    check_export(model, pretrained, tmp_path, lambda m: [*run(m)[0].values(), *run(m)[1]])
    save_gradients(model, tmp_path / "gradients")
    worst = gradient_error(gradients, load(tmp_path / "gradients").parameters)
    print(name, "gradients", worst)
    assert worst < 1e-4
