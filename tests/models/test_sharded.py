"""A Flamingo over eight simulated devices: the same parameters, outputs and gradients as on one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.batch import Batch
from mmjax.layers.attention import AttentionConfig
from mmjax.layers.mlp import MLP
from mmjax.models.connectors.resampler import ResamplerConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import Flamingo, FlamingoConfig
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parallel.sharding import (
    abstract_parameters,
    batch_sharding,
    init_sharded,
    nested,
    parameter_shardings,
    use_mesh,
)
from tests.models.plain_numpy import assert_same_gradients, random_parameters
from tests.quick import quick_jit

CONFIG = FlamingoConfig(
    vision=ViTConfig(16, 8, 16, 2, 2, 32),
    resampler=ResamplerConfig(16, 1, 2, 8, 4, 32),
    decoder=DecoderConfig(64, 24, 3, 4, 8, 48, kv_heads=2, tied_embeddings=False),
    cross=GatedCrossAttentionConfig(AttentionConfig(4, 8), 48, every=2, gate_init=0.5),
)


def make_batch():
    random = np.random.default_rng(0)

    def integers(high, *shape):
        return random.integers(1, high, shape).astype(np.int32)

    segments = np.repeat(np.array([[1, 1, 1, 1, 2, 2, 2, 0]], np.int32), 4, axis=0)
    return Batch(
        tokens=integers(64, 4, 8),
        positions=np.repeat(np.array([[0, 1, 2, 3, 0, 1, 2, 0]], np.int32), 4, axis=0),
        segment_ids=segments,
        targets=integers(64, 4, 8),
        loss_weights=np.ones((4, 8), np.float32),
        media_index=segments,
        images=random.integers(0, 256, (4, 2, 16, 16, 3)).astype(np.uint8),
        image_mask=np.ones((4, 2), bool),
        dataset_ids=np.zeros(4, np.int32),
    )


def run(mesh_config, devices):
    """Parameters, hidden states and gradients on a mesh."""
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    model, batch = Flamingo(CONFIG), make_batch()
    batch = jax.tree.map(lambda leaf: jax.device_put(leaf, batch_sharding(mesh, leaf.shape)), batch)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8, 24)), jnp.float32)

    def loss(parameters, batch):
        hidden = model.apply(nested(parameters), batch).hidden
        return jnp.sum(hidden * weights), hidden

    shapes, axes = abstract_parameters(model.init, jax.random.key(0), batch)
    shardings = parameter_shardings(shapes, axes, mesh)
    parameters = {path: jax.device_put(p, shardings[path]) for path, p in random_parameters(model, 1, batch).items()}
    with use_mesh(mesh):
        gradients, hidden = quick_jit(jax.grad(loss, has_aux=True))(parameters, batch)
    return jax.block_until_ready((parameters, hidden, gradients))


@pytest.fixture(scope="module")
def on_one_device():
    return run(MeshConfig(), 1)


@pytest.mark.parametrize(
    "mesh_config",
    [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=2, tensor=2, sequence=2)],
    ids=["data-fsdp-tensor", "data-tensor-sequence"],
)
def test_eight_devices_equal_one(mesh_config, on_one_device):
    parameters, hidden, gradients = run(mesh_config, 8)
    _, expected_hidden, expected_gradients = on_one_device
    np.testing.assert_allclose(hidden, expected_hidden, rtol=0, atol=1e-5 * float(jnp.abs(expected_hidden).max()))
    assert_same_gradients(gradients, expected_gradients, 1e-5)
    assert len(hidden.sharding.device_set) == 8
    split = [path for path, value in parameters.items() if not value.sharding.is_fully_replicated]
    stored = sum(value.addressable_shards[0].data.nbytes for value in parameters.values())
    whole = sum(value.nbytes for value in parameters.values())
    ways = mesh_config.fsdp * mesh_config.tensor
    assert stored < whole / ways * 1.35, (stored / whole, split)
    for part in ("vision", "resampler", "decoder/layers/cross_0", "decoder/layers/self_0", "decoder/tail/self_0"):
        assert any(path.startswith(part) for path in split), part


def test_parameters_do_not_depend_on_the_mesh():
    init, x = MLP(48, gated=True).init, jnp.zeros((1, 2, 24))
    meshes = make_mesh(MeshConfig(), jax.devices()[:1]), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    made = [init_sharded(init, mesh, jax.random.key(0), x) for mesh in meshes]
    assert made[0].keys() == made[1].keys()
    assert all(np.array_equal(made[0][path], made[1][path]) for path in made[0])
    assert made[1]["up/kernel"].addressable_shards[0].data.shape == (12, 24)


def test_config_is_hashable_and_equal_by_value():
    """Modules with equal configs share compiled programs."""
    again = dataclasses.replace(CONFIG, decoder=dataclasses.replace(CONFIG.decoder))
    assert hash(again) == hash(CONFIG) and Flamingo(again) == Flamingo(CONFIG)
