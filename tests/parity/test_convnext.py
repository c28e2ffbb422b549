"""ConvNeXt against transformers: every output, picture sizes that leave pixels over, gradients, round trips."""

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


def sizes(depths, widths, **more):
    return {"depths": depths, "hidden_sizes": widths, "num_stages": len(depths)} | more


# name -> (model, settings, picture height and width)
CASES = {
    "model": ("ConvNextModel", sizes([2, 1, 3, 1], [11, 14, 23, 30]), (75, 101)),
    "classifier": (
        "ConvNextForImageClassification",
        sizes([1, 3, 2], [9, 21, 26], patch_size=3, num_labels=7, hidden_act="gelu_new", layer_norm_eps=1e-5),
        (49, 38),
    ),
    "no-layer-scale": ("ConvNextModel", sizes([2, 3], [15, 22], patch_size=2, layer_scale_init_value=0.0), (27, 4)),
}
# Where each output of the reference stands in ours.
OUTPUTS = {
    "last_hidden_state": lambda out: out.last_hidden_state,
    "pooler_output": lambda out: out.pooled,
    "logits": lambda out: out.projected,
}


def channels_last(value):
    return value.detach().permute(0, 2, 3, 1) if value.ndim == 4 else value.detach()


@pytest.mark.parametrize("name", CASES)
def test_parity(name, tmp_path):
    class_name, settings, size = CASES[name]
    model = build(class_name, "ConvNextConfig", 1 + list(CASES).index(name), **settings)
    model.save_pretrained(tmp_path / "reference")
    random = np.random.default_rng(0)
    pictures = random.normal(size=(3, *size, 3)).astype(np.float32)

    def run(model):
        output = model(torch.tensor(pictures.transpose(0, 3, 1, 2)), output_hidden_states=True)
        return {key: output[key] for key in OUTPUTS if key in output}, output.hidden_states

    outputs, hidden = run(model)
    expected = {key: channels_last(value) for key, value in outputs.items()}
    cotangents = {key: random.normal(size=value.shape).astype(np.float32) for key, value in expected.items()}
    for key, value in outputs.items():
        cotangent = torch.tensor(cotangents[key])
        value.backward(cotangent.permute(0, 3, 1, 2) if value.ndim == 4 else cotangent, retain_graph=True)
    pretrained = load(tmp_path / "reference")

    def loss(parameters):
        output = pretrained.model().apply(nested(parameters), jnp.asarray(pictures))
        ours = {key: OUTPUTS[key](output) for key in outputs}
        return sum(jnp.sum(ours[key] * cotangents[key]) for key in ours), (ours, output.hidden)

    gradients, (ours, our_hidden) = quick_jit(jax.grad(loss, has_aux=True))(pretrained.parameters)
    errors = {key: relative_error(ours[key], expected[key]) for key in outputs}
    for stage, (found, value) in enumerate(zip(our_hidden, hidden, strict=True)):
        errors[f"hidden {stage}"] = relative_error(found, channels_last(value))
    print(name, errors)
    assert max(errors.values()) < 2e-5

    check_export(model, pretrained, tmp_path, lambda m: [*run(m)[0].values(), *run(m)[1]])
    save_gradients(model, tmp_path / "gradients")
    worst = gradient_error(gradients, load(tmp_path / "gradients").parameters)
    print(name, "gradients", worst)
    assert worst < 1e-4
