"""The vision transformer with windows: who sees whom, packing, padding, and depth by cycles."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError, InputError
from mmjax.models.decoders.config import DepthPlan
from mmjax.models.encoders.patch_grids import patch_positions
from mmjax.models.encoders.window_vit import PackedPatches, WindowViT, WindowViTConfig, pack_patches
from mmjax.parallel.sharding import nested
from tests.models.plain_numpy import assert_same_gradients, random_parameters
from tests.quick import quick_jit

CONFIG = WindowViTConfig(patch_size=2, width=24, layers=3, heads=2, mlp_width=20, window=2, full_layers=(1,))
GRIDS = np.array([[1, 4, 6], [2, 2, 4]])
COUNT = 24 + 16


def patches_of(config, grids, seed=0):
    count = int(np.prod(grids, axis=1).sum())
    values = np.random.default_rng(seed).normal(size=(count, config.patch_values))
    return pack_patches(config, jnp.asarray(values, jnp.float32), grids)


def make(config, grids=GRIDS):
    packed = patches_of(config, grids)
    model = WindowViT(config)
    parameters = random_parameters(model, 1, packed)
    return packed, parameters, quick_jit(lambda packed: model.apply(nested(parameters), packed).features)


def touched(apply, packed, place):
    """Which features change with one patch."""
    other = packed.replace(patches=packed.patches.at[0, place].add(1.0))
    return np.asarray(jnp.any(apply(packed) != apply(other), axis=-1))[0]


def test_windows_see_themselves_and_full_layers_their_frame():
    packed, _, apply = make(dataclasses.replace(CONFIG, full_layers=()))
    for place in (0, 13, 30):
        assert np.array_equal(touched(apply, packed, place), packed.windows[0] == packed.windows[0, place])
    packed, _, apply = make(CONFIG)
    for place in (0, 13, 30):
        assert np.array_equal(touched(apply, packed, place), packed.frames[0] == packed.frames[0, place])
    assert packed.frames[0].max() == 3


def test_packing_and_padding_change_nothing():
    packed, _, apply = make(CONFIG)
    whole = np.asarray(apply(packed))
    alone = [jax.tree.map(lambda x, at=at: x[:, at], packed) for at in (slice(24), slice(24, 32), slice(32, COUNT))]
    alone = np.concatenate([apply(picture) for picture in alone], axis=1)
    np.testing.assert_allclose(alone, whole, rtol=0, atol=2e-6 * np.abs(whole).max())
    padded = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 5)) + ((0, 0),) * (x.ndim - 2)), packed)
    padded = padded.replace(patches=padded.patches.at[:, COUNT:].set(9.0))
    np.testing.assert_allclose(apply(padded)[:, :COUNT], whole, rtol=0, atol=2e-6 * np.abs(whole).max())


def test_order_of_patches_does_not_matter():
    """Segments and positions say all that there is to know of a patch's place."""
    packed, _, apply = make(CONFIG)
    order = np.random.default_rng(2).permutation(COUNT)
    whole, shuffled = apply(packed), apply(jax.tree.map(lambda x: x[:, order], packed))
    np.testing.assert_allclose(shuffled, whole[:, order], rtol=0, atol=3e-6 * float(jnp.abs(whole).max()))


def test_rows_and_columns_are_told_apart():
    packed, _, apply = make(CONFIG, np.array([[1, 4, 4]]))
    turned = packed.replace(positions=packed.positions[:, :, ::-1])
    moved = packed.replace(positions=packed.positions + 7)
    whole = apply(packed)
    scale = float(jnp.abs(whole).max())
    assert float(jnp.abs(apply(turned) - whole).max()) > 1e-3 * scale
    np.testing.assert_allclose(apply(moved), whole, rtol=0, atol=1e-5 * scale)


def test_depth_is_cut_into_cycles():
    def plan(layers, full):
        return dataclasses.replace(CONFIG, layers=layers, full_layers=full).plan

    assert plan(32, (7, 15, 23, 31)) == DepthPlan(4, 8, 0)
    assert plan(5, (1, 3)) == DepthPlan(2, 2, 1)
    assert plan(3, (0, 1, 2)) == DepthPlan(3, 1, 0)
    assert plan(3, (0,)) == DepthPlan(1, 3, 0)


def test_cycles_equal_layers_one_by_one():
    """Five layers in two cycles and a tail, and the same as one cycle that does not repeat."""
    config = dataclasses.replace(CONFIG, layers=5, full_layers=(1, 3))
    packed, parameters, apply = make(config)
    whole = apply(packed)

    class Plain(WindowViTConfig):
        cycle = (False, True, False, True, False)

    plain = Plain(**dataclasses.asdict(config))
    assert plain.plan == DepthPlan(1, 5, 0)
    spelt_out = {}
    for path, value in parameters.items():
        where, _, rest = path.partition("/")
        if where == "layers":
            slot, _, rest = rest.partition("/")
            for block in range(2):
                layer = 2 * block + int(slot.removeprefix("self_"))
                spelt_out[f"layers/self_{layer}/{rest}"] = value[block][None]
        elif where == "tail":
            spelt_out[f"layers/self_4/{rest.partition('/')[2]}"] = value[None]
        else:
            spelt_out[path] = value
    again = quick_jit(WindowViT(plain).apply)(nested(spelt_out), packed).features
    np.testing.assert_allclose(again, whole, rtol=0, atol=2e-6 * float(jnp.abs(whole).max()))


def test_remat_gives_equal_gradients():
    gradients = {}
    for remat in ("none", "full"):
        model = WindowViT(dataclasses.replace(CONFIG, remat=remat))
        packed = patches_of(CONFIG, GRIDS)
        parameters = random_parameters(model, 1, packed)
        weights = jnp.asarray(np.random.default_rng(3).normal(size=(1, COUNT, 24)), jnp.float32)
        loss = jax.grad(lambda p, m=model, x=packed, w=weights: jnp.sum(w * m.apply(nested(p), x).features))
        gradients[remat] = quick_jit(loss)(parameters)
    assert_same_gradients(gradients["full"], gradients["none"], 1e-6)


def test_refuses():
    for wrong, message in [
        ({"width": 20}, "multiple of 4"),
        ({"window": 3}, "multiple of merge"),
        ({"full_layers": (3,)}, "full_layers"),
    ]:
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(CONFIG, **wrong)
    with pytest.raises(InputError, match=r"must be \[24,24\]"):
        pack_patches(CONFIG, jnp.zeros((20, 24)), GRIDS[:1])
    numbers = jnp.ones((1, 4), jnp.int32)
    wrong = PackedPatches(jnp.zeros((1, 4, 12)), numbers, numbers, jnp.asarray(patch_positions(GRIDS[:1], 2))[None, :4])
    with pytest.raises(InputError, match="24 values"):
        WindowViT(CONFIG).init(jax.random.key(0), wrong)
