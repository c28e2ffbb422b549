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
from mmjax.objectives.language import LanguageConfig, language_loss, position_weights
from mmjax.parallel import sharding
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

    segments = np.repeat(np.array([[1, 1, 1, 1, 2, 2, 2, 0]], np.int32), 8, axis=0)
    return Batch(
        tokens=integers(64, 8, 8),
        positions=np.repeat(np.array([[0, 1, 2, 3, 0, 1, 2, 0]], np.int32), 8, axis=0),
        segment_ids=segments,
        targets=integers(64, 8, 8),
        loss_weights=(segments > 0).astype(np.float32),
        media_index=segments,
        images=random.integers(0, 256, (8, 2, 16, 16, 3)).astype(np.uint8),
        image_mask=np.ones((8, 2), bool),
        dataset_ids=np.array([0, 0, 1, 0, 1, 0, 0, 0], np.int32),
    )


def run(mesh_config, devices):
    """Parameters, hidden states, losses and gradients on a mesh: a packed batch, and every part of the model."""
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    model, batch = Flamingo(CONFIG), make_batch()
    batch = jax.tree.map(lambda leaf: jax.device_put(leaf, batch_sharding(mesh, leaf.shape)), batch)

    def loss(parameters, batch):
        output = model.apply(nested(parameters), batch)
        weights = position_weights(batch, (1.0, 0.5))
        value, tally = language_loss(output, batch, weights, LanguageConfig(chunk_size=8), datasets=2)
        return value, (output.hidden, value, tally)

    shapes, axes = abstract_parameters(model.init, jax.random.key(0), batch)
    shardings = parameter_shardings(shapes, axes, mesh, mesh_config.strategy)
    parameters = {path: jax.device_put(p, shardings[path]) for path, p in random_parameters(model, 1, batch).items()}
    with use_mesh(mesh, mesh_config.strategy):
        gradients, told = quick_jit(jax.grad(loss, has_aux=True))(parameters, batch)
    return jax.block_until_ready((parameters, told, gradients))


@pytest.fixture(autouse=True)
def small_parameters_are_spread(monkeypatch):
    """So that "full" and "global" lay out the parameters of so small a model otherwise than "hybrid"."""
    monkeypatch.setattr(sharding, "_SPREAD_FROM", 64)


@pytest.fixture(scope="module")
def on_one_device():
    return run(MeshConfig(), 1)


# Every axis alone, and products of two and three, with parameters spread over some, all of a slice, and all.
PRODUCTS = {
    "data": MeshConfig(),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor-data": MeshConfig(data=4, tensor=2),
    "sequence-data": MeshConfig(data=2, sequence=4),
    "data-fsdp-full": MeshConfig(data=2, fsdp=4, strategy="full"),
    "fsdp-sequence": MeshConfig(data=1, fsdp=4, sequence=2, strategy="full"),
    "data-fsdp-sequence-full": MeshConfig(data=2, fsdp=2, sequence=2, strategy="full"),
    "data-fsdp-tensor": MeshConfig(data=2, fsdp=2, tensor=2),
    "data-fsdp-tensor-full": MeshConfig(data=2, fsdp=2, tensor=2, strategy="full"),
    "data-tensor-sequence": MeshConfig(data=2, tensor=2, sequence=2),
    "fsdp-tensor-sequence-full": MeshConfig(data=1, fsdp=2, tensor=2, sequence=2, strategy="full"),
    "slice-data-fsdp": MeshConfig(slice=2, data=2, fsdp=2),
    "slice-fsdp-tensor-global": MeshConfig(slice=2, data=1, fsdp=2, tensor=2, strategy="global"),
    "slice-data-sequence": MeshConfig(slice=2, data=2, sequence=2),
    "slice-fsdp-sequence-global": MeshConfig(slice=2, data=1, fsdp=2, sequence=2, strategy="global"),
    "tensor-more-than-key-heads": MeshConfig(data=2, tensor=4),
}


ALSO = (
    "data",
    "tensor-data",
    "data-fsdp-full",
    "fsdp-sequence",
    "data-fsdp-tensor",
    "slice-data-fsdp",
    "slice-data-sequence",
    "fsdp-tensor-sequence-full",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ALSO else ()) for name in PRODUCTS]
)
def test_eight_devices_equal_one(name, on_one_device):
    mesh_config = PRODUCTS[name]
    parameters, told, gradients = run(mesh_config, 8)
    _, expected, expected_gradients = on_one_device
    for value, other in zip(jax.tree.leaves(told), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=1e-5 * float(jnp.abs(other).max()))
    assert_same_gradients(gradients, expected_gradients, 1e-5)
    split = [path for path, value in parameters.items() if not value.sharding.is_fully_replicated]
    stored = sum(value.addressable_shards[0].data.nbytes for value in parameters.values())
    whole = sum(value.nbytes for value in parameters.values())
    ways = mesh_config.fsdp * mesh_config.tensor
    if ways > 1 and "heads" not in name:
        assert stored < whole / ways * 1.4, (stored / whole, split)
        for part in ("vision", "resampler", "decoder/layers/cross_0", "decoder/layers/self_0", "decoder/tail/self_0"):
            assert any(path.startswith(part) for path in split), part


@pytest.mark.parametrize("name", [name for name, mesh in PRODUCTS.items() if mesh.strategy != "hybrid"])
def test_strategies_lay_parameters_out_otherwise(name):
    """Most matrices lie over further axes, which the test above then gathers and scatters: nine of ten bytes."""
    config, batch = PRODUCTS[name], make_batch()
    mesh = make_mesh(config)
    shapes, axes = abstract_parameters(Flamingo(CONFIG).init, jax.random.key(0), batch)
    plain, spread = (parameter_shardings(shapes, axes, mesh, one) for one in ("hybrid", config.strategy))
    moved = [path for path in shapes if plain[path].spec != spread[path].spec]
    assert sum(shapes[path].size for path in moved) > 0.9 * sum(one.size for one in shapes.values()), moved
    further = {axis for path in moved for part in spread[path].spec for axis in np.atleast_1d(part) if part}
    assert further == {axis for axis, size in mesh.shape.items() if size > 1 and (axis != "slice" or "global" in name)}


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
