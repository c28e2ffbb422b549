"""Every backend against float64 numpy (one pair of positions at a time), gradients against float64 differences."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.core.errors import InputError
from mmjax.ops._attention_xla import xla_attention
from mmjax.ops.attention import attention, default_backend, target_platform
from mmjax.ops.masks import AttentionMask


@dataclasses.dataclass
class Question:
    """Float64 inputs of attention; `mask` holds numpy arrays."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    mask: AttentionMask
    scale: float | None
    softcap: float | None
    slopes: np.ndarray | None

    def answer(self, query=None, key=None, value=None):
        query = self.query if query is None else query
        key = self.key if key is None else key
        value = self.value if value is None else value
        batch, queries, heads, width = query.shape
        shared = heads // key.shape[2]
        scale = width**-0.5 if self.scale is None else self.scale
        output = np.zeros((batch, queries, heads, value.shape[-1]))
        for b, t, h in np.ndindex(batch, queries, heads):
            seen = [s for s in range(key.shape[1]) if sees(self.mask, b, t, s)]
            if not seen:
                continue
            scores = np.array([query[b, t, h] @ key[b, s, h // shared] * scale for s in seen])
            if self.softcap is not None:
                scores = self.softcap * np.tanh(scores / self.softcap)
            if self.slopes is not None:
                distances = np.array(
                    [abs(place(self.mask.query_positions, b, t) - place(self.mask.key_positions, b, s)) for s in seen]
                )
                scores = scores - self.slopes[h] * distances
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            output[b, t, h] = sum(w * value[b, s, h // shared] for w, s in zip(weights, seen, strict=True))
        return output

    def rows_that_see(self):
        return np.array(
            [
                [any(sees(self.mask, b, t, s) for s in range(self.key.shape[1])) for t in range(self.query.shape[1])]
                for b in range(self.query.shape[0])
            ]
        )


def sees(mask: AttentionMask, b: int, t: int, s: int) -> bool:
    query_segment = 1 if mask.query_segments is None else mask.query_segments[b, t]
    key_segment = 1 if mask.key_segments is None else mask.key_segments[b, s]
    if query_segment != key_segment or query_segment == 0:
        return False
    if mask.allowed is not None and not mask.allowed[b, t, s]:
        return False
    if not mask.causal or (mask.prefix is not None and mask.prefix[b, s]):
        return True
    distance = place(mask.query_positions, b, t) - place(mask.key_positions, b, s)
    if mask.query_blocks is not None and mask.query_blocks[b, t] == mask.key_blocks[b, s] != 0:
        return not mask.window_cuts_blocks or mask.window is None or distance < mask.window
    return distance >= 0 and (mask.window is None or distance < mask.window)


def place(positions, b: int, index: int) -> int:
    return index if positions is None else int(positions[b, index])


@st.composite
def questions(draw):
    """Random shapes and rules."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, groups, shared = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    queries, keys = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    width, value_width = draw(st.sampled_from([1, 4, 8])), draw(st.sampled_from([1, 4, 8]))
    causal = draw(st.booleans())

    def maybe(make):
        return make() if draw(st.booleans()) else None

    def integers(length, highest):
        return generator.integers(0, highest + 1, (batch, length)).astype(np.int32)

    blocks = maybe(lambda: (integers(queries, 2), integers(keys, 2))) or (None, None)
    mask = AttentionMask(
        window_cuts_blocks=draw(st.booleans()),
        query_blocks=blocks[0],
        key_blocks=blocks[1],
        allowed=maybe(lambda: generator.random((batch, queries, keys)) < 0.7),
        query_segments=maybe(lambda: integers(queries, 2)),
        key_segments=maybe(lambda: integers(keys, 2)),
        query_positions=maybe(lambda: integers(queries, 8)),
        key_positions=maybe(lambda: integers(keys, 8)),
        prefix=maybe(lambda: generator.random((batch, keys)) < 0.3),
        causal=causal,
        window=maybe(lambda: int(generator.integers(1, 5))) if causal else None,
    )
    return Question(
        query=2 * generator.normal(size=(batch, queries, groups * shared, width)),
        key=2 * generator.normal(size=(batch, keys, groups, width)),
        value=generator.normal(size=(batch, keys, groups, value_width)),
        mask=mask,
        scale=maybe(lambda: 0.3),
        softcap=maybe(lambda: 2.5),
        slopes=maybe(lambda: generator.random(groups * shared)),
    )


def in_blocks(query, key, value, *, mask, scale, softcap, alibi_slopes):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return xla_attention(query, key, value, mask, scale, softcap, alibi_slopes, block=2)


PORTABLE = {
    "reference": functools.partial(attention, backend="reference"),
    "xla": functools.partial(attention, backend="xla"),
    "xla in blocks": in_blocks,
}


def asked(question, dtype=jnp.float32):
    """The question's arrays for JAX, and the rest of its arguments."""
    arrays = [jnp.asarray(x, dtype) for x in (question.query, question.key, question.value)]
    slopes = None if question.slopes is None else jnp.asarray(question.slopes, jnp.float32)
    mask = jax.tree.map(jnp.asarray, question.mask)
    return arrays, {"mask": mask, "scale": question.scale, "softcap": question.softcap, "alibi_slopes": slopes}


@functools.partial(jax.jit, static_argnames=("run", "scale", "softcap"))
def forward_and_backward(run, arrays, pull, **rules):
    """The output, and the gradients of sum(output * pull)."""
    output, backward = jax.vjp(functools.partial(run, **rules), *arrays)
    return output, backward(pull.astype(output.dtype))


@pytest.mark.parametrize("backend", PORTABLE)
@settings(max_examples=10, deadline=None)
@given(question=questions(), seed=st.integers(0, 2**32 - 1))
def test_equals_float64_and_its_differences(backend, question, seed):
    arrays, rules = asked(question)
    generator = np.random.default_rng(seed)
    expected = question.answer()
    pull = generator.normal(size=expected.shape)
    output, gradients = forward_and_backward(PORTABLE[backend], arrays, jnp.asarray(pull, jnp.float32), **rules)
    np.testing.assert_allclose(output, expected, rtol=2e-5, atol=2e-5)
    assert (np.asarray(output)[~question.rows_that_see()] == 0).all()
    step = 1e-5
    for name, gradient in zip(("query", "key", "value"), gradients, strict=True):
        point = getattr(question, name)
        for _ in range(2):
            direction = generator.normal(size=point.shape)
            ahead = question.answer(**{name: point + step * direction})
            behind = question.answer(**{name: point - step * direction})
            expected = ((ahead - behind) * pull).sum() / (2 * step)
            np.testing.assert_allclose((np.asarray(gradient) * direction).sum(), expected, rtol=2e-4, atol=5e-4)


@pytest.mark.parametrize("backend", PORTABLE)
def test_rows_that_see_nothing_pass_no_gradient(backend):
    """Even where every row is blind, and where scores are large."""
    question = random_question(queries=3, keys=4)
    arrays, _ = asked(question)
    mask = AttentionMask(query_segments=jnp.array([[0, 2, 3]], jnp.int32), key_segments=jnp.array([[0, 1, 1, 1]]))
    rules = {"mask": mask, "scale": 1e4, "softcap": None, "alibi_slopes": None}
    results = forward_and_backward(PORTABLE[backend], arrays, jnp.ones((1, 3, 2, 8)), **rules)
    for result in jax.tree.leaves(results):
        assert (result == 0).all()


def random_question(queries, keys, batch=1, heads=2, groups=1, width=8, mask=None, seed=0, **rules):
    generator = np.random.default_rng(seed)
    arrays = [
        generator.normal(size=shape)
        for shape in ((batch, queries, heads, width), (batch, keys, groups, width), (batch, keys, groups, width))
    ]
    rules = {"scale": None, "softcap": None, "slopes": None} | rules
    return Question(*arrays, mask=AttentionMask() if mask is None else mask, **rules)


@pytest.mark.parametrize("backend", PORTABLE)
def test_bfloat16_stays_near_float64(backend):
    question = random_question(5, 6, heads=4, groups=2, width=16, mask=AttentionMask(causal=True))
    arrays, rules = asked(question, jnp.bfloat16)
    output, gradients = forward_and_backward(PORTABLE[backend], arrays, jnp.ones((1, 5, 4, 16)), **rules)
    assert [x.dtype for x in (output, *gradients)] == [jnp.bfloat16] * 4
    np.testing.assert_allclose(np.asarray(output, np.float64), question.answer(), atol=0.03)


def test_large_scores_stay_finite():
    question = random_question(4, 4, mask=AttentionMask(causal=True), scale=1e6)
    arrays, rules = asked(question)
    for backend in PORTABLE.values():
        output, gradients = forward_and_backward(backend, arrays, jnp.ones((1, 4, 2, 8)), **rules)
        np.testing.assert_allclose(output, question.answer(), rtol=1e-5, atol=1e-5)
        assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_cached_decoding_equals_one_pass():
    """One query a step against a cache whose unfilled slots are segment 0."""
    question = random_question(6, 6, mask=AttentionMask(causal=True))
    arrays, rules = asked(question)
    whole = attention(*arrays, **rules)
    query, key, value = arrays

    @jax.jit
    def decode(step, query):
        filled = jnp.where(jnp.arange(6) <= step, 1, 0).astype(jnp.int32)[None]
        mask = AttentionMask(causal=True, key_segments=filled, query_positions=jnp.reshape(step, (1, 1)))
        hidden = filled[:, :, None, None] == 0
        return attention(query, jnp.where(hidden, 9, key), jnp.where(hidden, 9, value), mask=mask)

    for step in range(6):
        one = decode(jnp.int32(step), query[:, step : step + 1])
        np.testing.assert_allclose(one[:, 0], whole[:, step], rtol=1e-5, atol=1e-6)


def test_xla_keeps_no_scores_for_the_backward_pass():
    """Between forward and backward only inputs, output and a number a row are kept, whatever the lengths."""
    question = random_question(256, 256, width=8)
    arrays, rules = asked(question, jnp.bfloat16)
    _, backward = jax.vjp(lambda *x: attention(*x, backend="xla", **rules), *arrays)
    kept = sum(x.nbytes for x in jax.tree.leaves(backward) if hasattr(x, "nbytes"))
    rows = 256 * 2 * 4
    assert kept <= 2 * sum(x.nbytes for x in arrays) + 2 * rows


def test_xla_memory_is_linear_in_the_rows():
    """Scores are held a block at a time: 2048 x 2048 of them would be 16 MiB a head."""
    shapes = [jax.ShapeDtypeStruct((1, 2048, 2, 16), jnp.bfloat16)] * 3

    def loss(*arrays):
        return attention(*arrays, mask=AttentionMask(causal=True), backend="xla").astype(jnp.float32).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 2048 * 2048 * 4 / 4


def test_xla_makes_no_mask_and_no_wide_copies_when_it_needs_none():
    shapes = [jax.ShapeDtypeStruct((2, 16, heads, 8), jnp.bfloat16) for heads in (4, 2, 2)]
    jaxpr = str(jax.make_jaxpr(functools.partial(attention, backend="xla"))(*shapes))
    assert re.search(r"f32\[[\d,]*16,16\]", jaxpr) and not re.search(r"bool\[[\d,]*16,16\]", jaxpr)
    assert "f32[2,2,16,8]" not in jaxpr


@pytest.mark.parametrize("groups", [4, 2])
def test_xla_needs_no_communication_over_batch_and_heads(groups):
    """With the batch and the heads sharded over simulated devices; in blocks of queries too."""
    auto, spec = jax.sharding.AxisType.Auto, jax.sharding.PartitionSpec
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(auto, auto))
    by_head = jax.sharding.NamedSharding(mesh, spec("data", None, "tensor"))
    by_row = jax.sharding.NamedSharding(mesh, spec("data"))
    arrays = [jax.ShapeDtypeStruct((4, 1200, heads, 8), jnp.float32, sharding=by_head) for heads in (4, groups, groups)]
    segments = jax.ShapeDtypeStruct((4, 1200), jnp.int32, sharding=by_row)

    def gradient(query, key, value, segments):
        mask = AttentionMask(segments, segments, causal=True)
        return jax.grad(lambda *x: attention(*x, mask=mask, backend="xla").sum(), (0, 1, 2))(query, key, value)

    text = jax.jit(gradient, out_shardings=by_head).lower(*arrays, segments).compile().as_text()
    assert not re.search(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter", text)


SPLASH = {
    "everything": (128, 128, lambda t, s: AttentionMask()),
    "everything, filled up": (130, 150, lambda t, s: AttentionMask()),
    "causal": (150, 150, lambda t, s: AttentionMask(causal=True)),
    "window, packed": (150, 150, lambda t, s: AttentionMask(packed(t), packed(t), causal=True, window=19)),
    "images": (130, 150, lambda t, s: AttentionMask(packed(t), packed(s))),
    "padded keys": (128, 256, lambda t, s: AttentionMask(key_segments=jnp.minimum(packed(s), 1))),
}


def packed(length):
    """Segments 1 and 2 of uneven lengths, then padding; 3 is only on the longer side."""
    ids = np.ones((2, length), np.int32)
    ids[0, length // 3 :] = 2
    ids[0, length - 9 :] = 0
    ids[1, length // 2 :] = 3 if length > 140 else 2
    return jnp.asarray(ids)


@pytest.mark.parametrize("name", SPLASH)
def test_splash_equals_reference(name):
    queries, keys, make_mask = SPLASH[name]
    mask = make_mask(queries, keys)
    softcap = 3.0 if name == "causal" else None
    question = random_question(queries, keys, batch=2, heads=4, groups=2, width=16)
    arrays, _ = asked(question)
    pull = jnp.asarray(np.random.default_rng(1).normal(size=question.query.shape), jnp.float32)
    results = []
    for backend in ("reference", "splash"):
        run = jax.jit(functools.partial(attention, mask=mask, softcap=softcap, backend=backend))
        output, backward = jax.vjp(run, *arrays)
        results.append((output, *backward(pull)))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    blind = ~np.asarray(mask.dense(queries, keys).any(-1) | jnp.zeros((2, 1), bool))
    assert (np.asarray(results[1][0])[blind] == 0).all()


def lowered_for(platform, *, backend=None, length=256, width=64, dtype=jnp.bfloat16, **rules):
    """The program text, forward and backward, for a platform that this machine may not have."""
    shapes = [jax.ShapeDtypeStruct((2, length, heads, width), dtype) for heads in (4, 2, 2)]

    def loss(*arrays):
        return attention(*arrays, backend=backend, **rules).astype(jnp.float32).sum()

    with target_platform(platform):
        return jax.jit(jax.grad(loss, (0, 1, 2))).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def test_tpu_programs_use_splash_where_it_can():
    segments = packed(256)
    mask = AttentionMask(segments, segments, causal=True)
    assert "tpu_custom_call" in lowered_for("tpu", mask=mask)
    assert "tpu_custom_call" not in lowered_for("tpu", mask=mask, backend="xla")
    positions = AttentionMask(causal=True, query_positions=segments)
    assert "tpu_custom_call" not in lowered_for("tpu", mask=positions)
    assert "tpu_custom_call" not in lowered_for("tpu", length=64)
    assert "tpu_custom_call" not in lowered_for("tpu", alibi_slopes=jnp.ones(4))


@pytest.fixture
def cuda_host(monkeypatch):
    """Lets programs for a CUDA GPU be traced where neither the GPU nor cuDNN is."""
    from jax._src.cudnn import fused_attention_stablehlo as kernel

    monkeypatch.setattr("importlib.util.find_spec", lambda name: "found")
    monkeypatch.setattr(kernel, "check_cudnn_version", lambda: 91100)


def test_cuda_programs_use_cudnn_where_it_can(cuda_host):
    segments = packed(256)
    packed_text = lowered_for("cuda", mask=AttentionMask(segments, segments, causal=True))
    assert "__cudnn$fmhaScaleBias" in packed_text and "CAUSAL" in packed_text
    causal_text = lowered_for("cuda", mask=AttentionMask(causal=True, window=32))
    assert "__cudnn$fmhaSoftmax" in causal_text and "CAUSAL" in causal_text
    for rules in ({"softcap": 2.0}, {"alibi_slopes": jnp.ones(4)}, {"width": 68}, {"dtype": jnp.float32}):
        assert "__cudnn" not in lowered_for("cuda", **rules)


def test_named_backend_that_cannot_do_it_says_why(cuda_host):
    with pytest.raises(InputError, match=r"'cudnn' cannot do this: it has no soft-cap; use backend='xla'"):
        lowered_for("cuda", backend="cudnn", softcap=2.0)
    with pytest.raises(InputError, match="even lengths"):
        lowered_for("cuda", backend="cudnn", length=25, mask=AttentionMask(key_segments=jnp.ones((1, 25), jnp.int32)))
    with pytest.raises(InputError, match="too wide"):
        lowered_for("cuda", backend="cudnn", width=256)
    with pytest.raises(InputError, match="runs on CUDA GPUs and this program is for cpu"):
        lowered_for("cpu", backend="cudnn")
    with pytest.raises(InputError, match="leave the mask's positions unset"):
        lowered_for("tpu", backend="splash", mask=AttentionMask(causal=True, query_positions=packed(256)))
    with pytest.raises(InputError, match="no distance penalty"):
        lowered_for("tpu", backend="splash", alibi_slopes=jnp.ones(4))


def test_cudnn_that_is_not_installed_is_not_chosen(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "__cudnn" not in lowered_for("cuda")
    with pytest.raises(InputError, match="install jax"):
        lowered_for("cuda", backend="cudnn")


def test_default_backend_holds_inside_it_and_traces_anew():
    question = random_question(4, 4)
    arrays, _ = asked(question)
    run = jax.jit(attention)

    def primitives():
        return str(run.trace(*arrays).jaxpr)

    usual = primitives()
    with default_backend("reference"):
        assert "precision=(Precision.HIGHEST" in primitives()
    assert primitives() == usual
    with pytest.raises(InputError, match="no attention backend 'flash'"), default_backend("flash"):
        pass
    with pytest.raises(InputError, match="choose from reference, xla"):
        attention(*arrays, backend="fast")


def test_inputs_that_do_not_fit_are_named():
    question = random_question(4, 5, heads=4, groups=2)
    (query, key, value), _ = asked(question)
    with pytest.raises(InputError, match="H a multiple of G"):
        attention(query[:, :, :3], key, value)
    with pytest.raises(InputError, match="one dtype"):
        attention(query, key.astype(jnp.bfloat16), value)
    with pytest.raises(InputError, match=r"key_segments must be \[1,5\]"):
        attention(query, key, value, mask=AttentionMask(key_segments=jnp.ones((1, 4), jnp.int32)))
    with pytest.raises(InputError, match=r"one number a head, \[4\]"):
        attention(query, key, value, alibi_slopes=jnp.ones(2))
