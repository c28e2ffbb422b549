"""Counts against formulas, exactly."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.ops.attention import attention, target_platform
from mmjax.ops.flops import count_flops
from mmjax.ops.losses import linear_cross_entropy


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_matmul():
    count = count_flops(lambda x, w: jnp.tanh(x @ w), shape(3, 5), shape(5, 7))
    assert count.total == 2 * 3 * 5 * 7
    assert count.by_primitive == {"dot_general": 210}
    assert count.open_loops == 0 and count.opaque == {}


def test_batched_matmul_and_empty_ones():
    count = count_flops(lambda x, y: jnp.einsum("bthk,bshk->bhts", x, y), shape(2, 3, 4, 5), shape(2, 6, 4, 5))
    assert count.total == 2 * 2 * 4 * 3 * 6 * 5
    assert count_flops(jnp.dot, shape(3, 0), shape(0, 4)).total == 0


def test_gradient_is_two_more_matmuls():
    def loss(w, x):
        return jnp.square(x @ w).sum()

    one = 2 * 3 * 5 * 7
    assert count_flops(jax.grad(loss, (0, 1)), shape(5, 7), shape(3, 5)).total == 3 * one
    assert count_flops(jax.grad(loss), shape(5, 7), shape(3, 5)).total == 2 * one


def test_what_does_not_reach_the_result_is_not_counted():
    assert count_flops(lambda x: (x @ x, x)[1], shape(4, 4)).total == 0
    assert count_flops(lambda x: jax.jit(lambda y: (y @ y, y + 1))(x)[1], shape(4, 4)).total == 0


def layer(x, w):
    return jnp.tanh(x @ w), None


@pytest.mark.parametrize("recompute", [False, True])
def test_scan_counts_every_trip_and_recomputation(recompute):
    body = jax.checkpoint(layer) if recompute else layer

    def loss(weights, x):
        return jax.lax.scan(body, x, weights)[0].sum()

    one = 2 * 3 * 8 * 8
    assert count_flops(loss, shape(6, 8, 8), shape(3, 8)).total == 6 * one
    expected = 6 * (4 if recompute else 3) * one
    assert count_flops(jax.grad(loss), shape(6, 8, 8), shape(3, 8)).total == expected


def test_nested_scans_multiply():
    def inner(x, _):
        return x @ x, None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=5)[0], None

    assert count_flops(lambda x: jax.lax.scan(outer, x, None, length=3)[0], shape(4, 4)).total == 15 * 2 * 4**3


def test_while_is_counted_once_and_said_so():
    count = count_flops(lambda x: jax.lax.while_loop(lambda y: y.sum() < 3, lambda y: y @ y, x), shape(4, 4))
    assert (count.total, count.open_loops) == (2 * 4**3, 1)


def test_cond_counts_the_dearest_branch():
    def either(flag, x):
        return jax.lax.cond(flag, lambda y: y @ y @ y, lambda y: y @ y, x)

    assert count_flops(either, shape(dtype=jnp.bool_), shape(4, 4)).total == 2 * 2 * 4**3


def test_callbacks_are_named_as_not_counted():
    def outside(x):
        return jax.pure_callback(np.asarray, x, x)

    assert count_flops(outside, shape(2)).opaque == {"pure_callback": 1}


def counted_by_hand(source, kernel, strides, padding, lhs_dilation, rhs_dilation, places):
    """Multiplications along the spatial dimensions that meet a real element, one at a time."""
    meets = 0
    for place in itertools.product(*map(range, places)):
        for tap in itertools.product(*map(range, kernel)):
            real = True
            for axis, (p, t) in enumerate(zip(place, tap, strict=True)):
                position = p * strides[axis] + t * rhs_dilation[axis] - padding[axis][0]
                whole, rest = divmod(position, lhs_dilation[axis])
                real &= rest == 0 and 0 <= whole < source[axis]
            meets += real
    return meets


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("strides", "padding", "lhs_dilation", "rhs_dilation"),
    [
        ((1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1)),
        ((2, 3), ((2, 1), (0, 2)), (1, 1), (1, 2)),
        ((1, 2), ((-1, 3), (1, 1)), (2, 3), (2, 1)),
    ],
)
def test_convolution_leaves_out_padding_and_holes(groups, strides, padding, lhs_dilation, rhs_dilation):
    run = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        feature_group_count=groups,
    )
    source, kernel = shape(2, 4, 6, 7), shape(8, 4 // groups, 3, 2)
    places = jax.eval_shape(run, source, kernel).shape[2:]
    meets = counted_by_hand((6, 7), (3, 2), strides, padding, lhs_dilation, rhs_dilation, places)
    forward = 2 * 2 * 8 * (4 // groups) * meets
    assert count_flops(run, source, kernel).total == forward
    assert count_flops(lambda x, w: jax.vjp(run, x, w)[1](run(x, w)), source, kernel).total == 3 * forward


def test_patch_embedding_equals_its_matmul():
    count = count_flops(
        lambda x, w: jax.lax.conv_general_dilated(x, w, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        shape(2, 16, 16, 3),
        shape(4, 4, 3, 24),
    )
    assert count.total == 2 * (2 * 16) * (4 * 4 * 3) * 24


@pytest.mark.parametrize(("backend", "backward"), [("reference", 4), ("xla", 5)])
def test_attention_is_two_products_forward(backend, backward):
    """The gradient is four products more, and one to make the scores again where they were not kept."""
    query, key = shape(2, 200, 4, 16), shape(2, 300, 2, 16)
    run = functools.partial(attention, backend=backend)
    product = 2 * 2 * 4 * 200 * 300 * 16
    assert count_flops(run, query, key, key).total == 2 * product

    def loss(*arrays):
        return run(*arrays).sum()

    assert count_flops(jax.value_and_grad(loss, (0, 1, 2)), query, key, key).total == (2 + backward) * product


def test_attention_in_blocks_counts_its_filled_up_rows():
    """1501 queries in 12 blocks of 126: of the filled-up rows there are fewer than blocks."""
    query = shape(1, 1501, 1, 8)
    run = functools.partial(attention, backend="xla")
    assert count_flops(run, query, query, query).total == 2 * 2 * (12 * 126) * 1501 * 8


def test_kernels_are_counted(monkeypatch):
    """Pallas by its program and grid; two kernels make the gradient, each with the scores again."""
    query, key = shape(2, 256, 4, 64, dtype=jnp.bfloat16), shape(2, 512, 2, 64, dtype=jnp.bfloat16)
    product = 2 * 2 * 4 * 256 * 512 * 64

    def loss(*arrays):
        return attention(*arrays).astype(jnp.float32).sum()

    with target_platform("tpu"):
        assert count_flops(loss, query, key, key).total == 2 * product
        row_sums = 2 * 2 * 4 * 256 * 64
        assert count_flops(jax.grad(loss, (0, 1, 2)), query, key, key).total == (2 + 3 + 4) * product + row_sums
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "found")
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91100)
    with target_platform("cuda"):
        assert count_flops(loss, query, key, key).total == 2 * product
        assert count_flops(jax.grad(loss, (0, 1, 2)), query, key, key).total == (2 + 5) * product


@pytest.mark.parametrize(("backend", "products"), [("xla", 7), ("splash", 9)])
def test_policy_that_saves_attention_does_not_attend_twice(backend, products):
    """Under `jax.checkpoint` the two products of the forward pass are made again, unless their result is kept."""
    query = shape(1, 256, 2, 64)
    product = 2 * 2 * 256 * 256 * 64

    def loss(query, policy):
        attend = jax.checkpoint(lambda x: attention(x, x, x, backend=backend), policy=policy)
        return jnp.square(attend(jnp.sin(query))).sum()

    def counted(policy):
        return count_flops(jax.value_and_grad(functools.partial(loss, policy=policy)), query).total // product

    assert counted(jax.checkpoint_policies.save_only_these_names("attention")) == products
    assert counted(None) == products + 2


def test_frozen_parts_cost_no_gradient():
    """Two layers, the first frozen: its own gradient is not computed, nor what would only lead to it."""

    def loss(trained, frozen, x):
        return (jnp.tanh(x @ frozen) @ trained).sum()

    one = 2 * 3 * 8 * 8
    assert count_flops(jax.grad(loss), shape(8, 8), shape(8, 8), shape(3, 8)).total == 2 * one
    assert count_flops(jax.grad(loss, (0, 1)), shape(8, 8), shape(8, 8), shape(3, 8)).total == 4 * one


@pytest.mark.parametrize(("differentiated", "products"), [((), 1), ((0,), 2), ((1,), 2), ((0, 1), 3)])
def test_loss_forms_only_the_gradients_that_are_wanted(differentiated, products):
    def loss(hidden, kernel, targets, weights):
        return linear_cross_entropy(hidden, kernel, targets, weights, chunk_size=16).loss

    run = jax.grad(loss, differentiated) if differentiated else loss
    arguments = shape(64, 24), shape(40, 24), shape(64, dtype=jnp.int32), shape(64)
    assert count_flops(run, *arguments).total == products * 2 * 64 * 24 * 40
    platforms = 2
    assert str(jax.make_jaxpr(run)(*arguments)).count("dot_general[") == platforms * products, "formed and thrown away"


def scoped(weights, x):
    with jax.named_scope("vision"):
        x = x @ weights
    with jax.named_scope("decoder"):
        with jax.named_scope("layers"):
            x, _ = jax.lax.scan(jax.checkpoint(lambda y, _: (jnp.tanh(y @ weights), None)), x, None, length=3)
        x = jax.jit(lambda y: y @ weights)(x)
    return (x @ weights).sum()


def test_scopes_include_their_gradients():
    one = 2 * 3 * 8 * 8
    arguments = shape(8, 8), shape(3, 8)
    assert count_flops(scoped, *arguments).by_scope == {"vision": one, "decoder": 4 * one, "": one}
    count = count_flops(jax.value_and_grad(scoped), *arguments, scope_depth=2)
    expected = {"vision": 2 * one, "decoder/layers": 3 * 4 * one, "decoder": 3 * one, "": 3 * one}
    assert count.by_scope == expected
    assert count.total == sum(expected.values())


def test_sharded_work_is_counted_over_all_devices():
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(auto, auto))
    spec = jax.sharding.PartitionSpec("data", None)
    run = jax.shard_map(lambda x: jnp.tanh(x @ x.T), mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"data"})
    assert count_flops(run, shape(16, 8)).total == 4 * (2 * 4 * 4 * 8)
