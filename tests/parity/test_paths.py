"""The same parity by other paths: parameters read straight onto eight devices; a token a step through the cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.interop.engine import load
from mmjax.models.decoders.decoder import empty_cache
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parallel.sharding import nested, use_mesh
from tests.parity.reference_models import build, relative_error, torch
from tests.parity.test_decoders import CASES, make_inputs, our_outputs, reference_outputs
from tests.quick import quick_jit

PROMPT, STEPS = 8, 7


@pytest.mark.parametrize("name", ["gemma2", "gpt-neox"])
def test_sharded(name, tmp_path):
    class_name, config_name, settings, _ = CASES[name]
    model = build(class_name, config_name, 5, **settings)
    model.save_pretrained(tmp_path)
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, data=2))
    pretrained = load(tmp_path, mesh=mesh)
    assert any(not value.sharding.is_fully_replicated for value in pretrained.parameters.values())
    tokens, present, positions = make_inputs()
    logits, _ = reference_outputs(model, tokens, present, positions)
    with use_mesh(mesh):
        ours, _, _ = our_outputs(pretrained, tokens, present, positions)
    real = present == 1
    assert relative_error(np.asarray(ours)[real], logits.detach()[real]) < 2e-5


def greedy(pretrained, tokens, present):
    """Prompts, padded on the left, go into the cache at once; then a token a step."""
    model, config, batch = pretrained.model(), pretrained.config, len(tokens)
    total = PROMPT + STEPS
    variables = nested(pretrained.parameters)
    positions = np.maximum(np.cumsum(present, 1) - 1, 0)

    @quick_jit
    def step(cache, tokens, positions, present, places):
        output = model.apply(variables, tokens, positions, present, cache=cache, write_index=places)
        logits = output.hidden[:, -1] @ output.unembedding.T  # a soft-cap does not change which is the largest
        return jnp.argmax(logits, -1).astype(jnp.int32), output.cache

    arrays = [jnp.asarray(x, jnp.int32) for x in (tokens, positions, present, np.tile(np.arange(PROMPT), (batch, 1)))]
    chosen, cache = step(empty_cache(config, None, batch=batch, length=total), *arrays)
    written, ones = [chosen], jnp.ones((batch, 1), jnp.int32)
    for number in range(STEPS - 1):
        at = jnp.asarray(present.sum(1, keepdims=True) + number, jnp.int32)
        chosen, cache = step(cache, chosen[:, None], at, ones, ones * (PROMPT + number))
        written.append(chosen)
    return np.stack(jax.device_get(written), axis=1)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2", "gpt-neox", "opt", "mpt"])
def test_greedy_tokens_through_the_cache(name, tmp_path):
    class_name, config_name, settings, _ = CASES[name]
    model = build(class_name, config_name, 5, **settings)
    model.save_pretrained(tmp_path)
    random = np.random.default_rng(0)
    tokens, present = random.integers(3, 61, (3, PROMPT)), np.ones((3, PROMPT), int)
    present[1, :3] = 0
    present[2, :6] = 0
    reference = model.generate(
        torch.tensor(tokens),
        attention_mask=torch.tensor(present),
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert np.array_equal(greedy(load(tmp_path), tokens, present), reference[:, PROMPT:].numpy())
