"""Logical axes to mesh axes; parameters made in their shards are the same on every mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core.errors import MmjaxError
from mmjax.parallel.gathering import gathered
from mmjax.parallel.mesh import AXES, MeshConfig, make_mesh
from mmjax.parallel.sharding import (
    RULES,
    STORAGE,
    abstract_parameters,
    audit,
    batch_sharding,
    constrain,
    init_sharded,
    nested,
    partition_spec,
    storage_spec,
    use_mesh,
)

# Enough of every axis to tell them apart; no device is needed for a spec.
WIDE = AbstractMesh((2, 2, 4, 2, 2), AXES)


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [
        ((16, 8, 32), ("batch", "length", "embed"), P(("slice", "data", "fsdp"), "sequence")),
        ((32, 64), ("embed", "mlp"), P(None, "tensor")),
        ((64, 32), ("mlp", "embed"), P("tensor")),
        ((32, 6, 4, 8), ("image", None, "heads", None), P(("slice", "data", "fsdp", "sequence"), None, "tensor")),
        ((4, 4), ("heads", "kv_heads"), P("tensor")),  # both want tensor; the first has it
        ((30, 63), ("embed", "mlp"), P()),
        ((4, 8), ("batch", "length"), P(("slice", "data"), "sequence")),  # 4 rows go as far as they can
        ((6, 8), ("batch", "length"), P("slice", "sequence")),
        ((3, 8), ("batch", "length"), P(None, "sequence")),
        ((64, 32), (None, "mlp"), P(None, "tensor")),
        ((64, 32), (None, None), P()),
        ((), (), P()),
    ],
)
def test_partition_spec(shape, axes, spec):
    assert partition_spec(shape, axes, WIDE) == spec


@pytest.mark.parametrize(
    ("strategy", "shape", "axes", "spec"),
    [
        ("hybrid", (32, 64), ("embed", "mlp"), P("fsdp", "tensor")),
        ("hybrid", (64, 32), ("mlp", "embed"), P("tensor", "fsdp")),
        ("hybrid", (32, 4, 8), ("embed", "heads", "head_dim"), P("fsdp", "tensor")),
        ("hybrid", (6, 32, 64), ("layers", "embed", "mlp"), P(None, "fsdp", "tensor")),
        ("hybrid", (30, 64), ("embed", "mlp"), P(None, "tensor")),  # 30 is no multiple of 4
        ("hybrid", (64, 64), ("embed", "embed"), P("fsdp")),
        # One copy a slice: what the names leave goes to the largest dimensions, to those that are whole first.
        ("full", (512, 512), ("embed", "mlp"), P(("fsdp", "sequence"), ("tensor", "data"))),
        ("full", (4, 512, 512), ("layers", "embed", "mlp"), P(None, ("fsdp", "sequence"), ("tensor", "data"))),
        ("full", (512, 1, 64), ("embed", "kv_heads", "head_dim"), P(("fsdp", "sequence", "tensor"), None, "data")),
        ("full", (510, 512), ("embed", "mlp"), P("data", ("tensor", "sequence", "fsdp"))),
        ("full", (512, 3), ("embed", None), P("fsdp")),  # small: by its name only
        ("global", (512, 512), ("embed", "mlp"), P(("fsdp", "sequence"), ("tensor", "data", "slice"))),
    ],
)
def test_where_parameters_lie_between_uses(strategy, shape, axes, spec):
    assert storage_spec(shape, axes, WIDE, strategy) == spec


def test_axes_of_size_one_are_left_out():
    assert partition_spec((16, 32), ("batch", "mlp"), AbstractMesh((1, 1, 8, 1, 1), AXES)) == P("fsdp")
    assert partition_spec((16, 32), ("batch", "mlp"), AbstractMesh((1, 1, 1, 1, 1), AXES)) == P()


def test_every_rule_names_axes_of_the_mesh():
    tables = [RULES, *(rules for rules, _ in STORAGE.values())]
    assert {axis for rules in tables for axes in rules.values() for axis in axes} <= set(AXES)
    assert {axis for _, spread in STORAGE.values() for axis in spread} <= set(AXES)
    assert len(RULES) <= 12


def test_axes_that_do_not_fit_the_array_are_refused():
    with pytest.raises(MmjaxError, match=r"shape \(4, 4\) .* \('embed',\): their numbers differ"):
        partition_spec((4, 4), ("embed",), WIDE)
    with pytest.raises(MmjaxError, match=r"'embde' is not a logical axis; did you mean embed\?"):
        partition_spec((4,), ("embde",), WIDE)


def test_batches_are_split_by_rows_only():
    assert batch_sharding(WIDE, (16, 8, 4)).spec == P(("slice", "data", "fsdp"))
    assert batch_sharding(WIDE, ()).spec == P()


def test_constrain_lays_out_within_use_mesh_only():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    x = jnp.zeros((8, 6, 4))

    def run(x):
        return constrain(2.0 * x, "batch", "length", "mlp")

    with use_mesh(mesh):
        y = jax.jit(run)(x)
        with use_mesh(None):
            assert constrain(x, "batch", "length", "mlp") is x
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, P(("data", "fsdp"), None, "tensor")), y.ndim)
    assert constrain(x, "batch", "length", "mlp") is x
    with use_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        assert constrain(x, "batch", "length", "mlp") is x


def test_a_parameter_is_gathered_for_use_and_its_gradient_goes_back():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2, strategy="full"))
    kept = NamedSharding(mesh, storage_spec((128, 256), ("embed", "mlp"), mesh, "full"))
    kernel = jax.device_put(jnp.ones((128, 256)), kept)

    def use(kernel):
        used = gathered(kernel, "embed", "mlp")
        return jnp.sum(jnp.square(used)), used

    with use_mesh(mesh, "full"):
        gradient, used = jax.jit(jax.grad(use, has_aux=True))(kernel)
    assert kept.spec == P("fsdp", ("tensor", "data"))
    assert gradient.sharding.is_equivalent_to(kept, 2)
    assert used.sharding.is_equivalent_to(NamedSharding(mesh, P(None, "tensor")), 2)
    assert gathered(kernel, "embed", "mlp") is kernel


class Net(nn.Module):
    """Two layers under a scan, with parameters of all kinds of layouts, one of them without axes."""

    @nn.compact
    def __call__(self, x):
        normal = nn.initializers.normal()

        def layer(self, x, _):
            up = self.param("up", nn.with_partitioning(normal, ("embed", "mlp")), (16, 32))
            down = self.param("down", nn.with_partitioning(normal, ("mlp", "embed")), (32, 16))
            return x + jax.nn.relu(x @ up) @ down, None

        table = self.param("table", nn.with_partitioning(normal, ("vocab", "embed")), (21, 16))  # 21: never divides
        scale = self.param("scale", nn.initializers.truncated_normal(), (16,))
        blocks = nn.scan(
            nn.remat(type("Block", (nn.Module,), {"__call__": nn.compact(layer)})),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = blocks(name="blocks")(x, None)
        return (x * scale[None]) @ table.T


MESHES = {
    "one device": (MeshConfig(), 1),
    "data": (MeshConfig(), 8),
    "fsdp": (MeshConfig(data=1, fsdp=-1), 8),
    "tensor": (MeshConfig(tensor=4), 4),
    "all": (MeshConfig(data=2, fsdp=2, tensor=2), 8),
}


def mesh_of(name):
    config, devices = MESHES[name]
    return make_mesh(config, jax.devices()[:devices])


@pytest.fixture(scope="module")
def on_one_device():
    return init_sharded(Net().init, mesh_of("one device"), jax.random.key(0), jnp.zeros((2, 16)))


@pytest.mark.parametrize("name", [name for name in MESHES if name != "one device"])
def test_parameters_are_made_in_their_shards_and_equal_on_every_mesh(name, on_one_device):
    mesh = mesh_of(name)
    params = init_sharded(Net().init, mesh, jax.random.key(0), jnp.zeros((2, 16)))
    assert params.keys() == on_one_device.keys()
    for path, leaf in params.items():
        np.testing.assert_array_equal(leaf, on_one_device[path], err_msg=path)
    up = params["blocks/up"]
    ways = mesh.shape["fsdp"] * mesh.shape["tensor"]
    assert up.addressable_shards[0].data.size * ways == up.size
    np.testing.assert_allclose(
        jax.jit(Net().apply)(nested(params), jnp.ones((2, 16))),
        jax.jit(Net().apply)(nested(on_one_device), jnp.ones((2, 16))),
        rtol=1e-5,
        atol=1e-6,
    )


def test_shapes_and_axes_of_a_module_that_is_not_made():
    shapes, axes = abstract_parameters(Net().init, jax.random.key(0), jax.ShapeDtypeStruct((2, 16), jnp.float32))
    assert {path: (leaf.shape, axes[path]) for path, leaf in shapes.items()} == {
        "blocks/up": ((3, 16, 32), ("layers", "embed", "mlp")),
        "blocks/down": ((3, 32, 16), ("layers", "mlp", "embed")),
        "table": ((21, 16), ("vocab", "embed")),
        "scale": ((16,), (None,)),
    }


def test_the_audit_says_where_each_parameter_lies():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shapes, axes = abstract_parameters(Net().init, jax.random.key(0), jnp.zeros((2, 16)))
    rows = {row.path: row for row in audit(shapes, axes, mesh)}
    assert list(rows) == ["blocks/down", "blocks/up", "scale", "table"]
    assert [(row.spec, row.bytes_per_device, row.replicated) for row in rows.values()] == [
        (P(None, "tensor", "fsdp"), 3 * 32 * 16 * 4 // 4, False),
        (P(None, "fsdp", "tensor"), 3 * 32 * 16 * 4 // 4, False),
        (P(), 16 * 4, True),
        (P(None, "fsdp"), 21 * 16 * 4 // 2, False),
    ]
    assert rows["table"].axes == ("vocab", "embed") and rows["table"].shape == (21, 16)
    params = init_sharded(Net().init, mesh, jax.random.key(0), jnp.zeros((2, 16)))
    for path, leaf in params.items():
        assert leaf.addressable_shards[0].data.nbytes == rows[path].bytes_per_device
    alone = audit(shapes, axes, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert not any(row.replicated for row in alone)
