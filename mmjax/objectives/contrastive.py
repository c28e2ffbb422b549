"""Each picture with its own text among all texts of the batch: CLIP's softmax loss and SigLIP's sigmoid loss.

The batch is the global one, over all devices. Embeddings stay where their rows are; a device holds the logits of its
own rows alone, a chunk at a time. A row without a picture or without a text is no pair: it has no loss, and the others
are not compared with it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.batch import Batch
from mmjax.core.errors import ConfigError
from mmjax.models.two_tower import Pairs
from mmjax.objectives.tally import Tally, by_dataset
from mmjax.parallel.sharding import current_mesh, mesh_axes_of, partition_spec

_HIDDEN = -1e30  # a logit that no sum of exponentials notices; finite, so that nothing becomes NaN


def _check_chunk(chunk_size: int) -> None:
    if chunk_size < 1:
        raise ConfigError(f"chunk_size must be positive, not {chunk_size}")


@dataclasses.dataclass(frozen=True)
class SoftmaxContrastiveConfig:
    """CLIP's loss (Radford et al. 2021): softmax over the texts of the batch, and over its pictures; the mean of both.

    max_scale: the factor on the cosines is held at this.
    chunk_size: rows of a device whose logits exist at the same time.
    """

    kind: Literal["softmax_contrastive"] = dataclasses.field(default="softmax_contrastive", kw_only=True)
    max_scale: float = 100.0
    chunk_size: int = 1024

    def __post_init__(self):
        _check_chunk(self.chunk_size)
        if self.max_scale <= 0.0:
            raise ConfigError(f"max_scale must be positive, not {self.max_scale}")


@dataclasses.dataclass(frozen=True)
class SigmoidContrastiveConfig:
    """SigLIP's loss (Zhai et al. 2023): each of the batch's pairs of a picture and a text is told right or wrong alone.

    chunk_size: texts of a device whose logits exist at the same time.
    """

    kind: Literal["sigmoid_contrastive"] = dataclasses.field(default="sigmoid_contrastive", kw_only=True)
    chunk_size: int = 1024

    def __post_init__(self):
        _check_chunk(self.chunk_size)


class Sides(NamedTuple):
    """Of each row: the nll of its picture among the texts and of its text among the pictures, and whether each finds
    the other before all others."""

    image_nll: Float[Array, "B"]
    text_nll: Float[Array, "B"]
    image_correct: Float[Array, "B"]
    text_correct: Float[Array, "B"]


def is_pair(batch: Batch) -> Bool[Array, "B"]:
    """Which rows have both a picture and a text."""
    picture = jnp.any(batch.image_mask.reshape(batch.image_mask.shape[0], -1), axis=1)
    return picture & jnp.any(batch.segment_ids > 0, axis=1)


def pair_weights(batch: Batch, dataset_weights: Sequence[float]) -> Float[Array, "B"]:
    """Weights of the rows under which the summed loss is `sum_d w_d mean_d` over the pairs of each data set."""
    there = is_pair(batch).astype(jnp.float32)
    counts = by_dataset(batch, there, len(dataset_weights))
    factors = jnp.asarray(dataset_weights, jnp.float32) / jnp.maximum(counts, 1.0)
    return there * jnp.take(factors, batch.dataset_ids)


def softmax_contrastive_loss(
    pairs: Pairs,
    batch: Batch,
    weights: Float[Array, "B"],
    config: SoftmaxContrastiveConfig,
    *,
    datasets: int,
) -> tuple[Float[Array, ""], Tally]:
    """The sum over rows of weight x the mean of both directions' cross-entropy."""
    there = is_pair(batch)
    scale = jnp.minimum(pairs.scale, config.max_scale)
    rows = functools.partial(_softmax_rows, chunk_size=config.chunk_size)
    sides = _by_rows(rows, (pairs.image_embeddings, pairs.text_embeddings, there), (scale,))
    loss = jnp.sum(weights * 0.5 * (sides.image_nll + sides.text_nll))
    return loss, _tally(sides, batch, there, datasets)


def sigmoid_contrastive_loss(
    pairs: Pairs,
    batch: Batch,
    weights: Float[Array, "B"],
    config: SigmoidContrastiveConfig,
    *,
    datasets: int,
) -> tuple[Float[Array, ""], Tally]:
    """The sum over all pairs of a picture i and a text j of (weight_i + weight_j) / 2 x -log sigmoid(+-logit_ij).

    With the same weight 1/B for every row this is the mean over pictures of the sum over texts, as published.
    """
    there = is_pair(batch)
    inputs = (pairs.image_embeddings, pairs.text_embeddings, pairs.scale, pairs.bias)
    loss, sides = _sigmoid(*inputs, there, jax.lax.stop_gradient(weights), config.chunk_size)
    return loss, _tally(jax.tree.map(jax.lax.stop_gradient, sides), batch, there, datasets)


def _tally(sides: Sides, batch: Batch, there: Bool[Array, "B"], datasets: int) -> Tally:
    weight = there.astype(jnp.float32)
    return Tally(
        weight=by_dataset(batch, weight, datasets),
        nll=by_dataset(batch, weight * 0.5 * (sides.image_nll + sides.text_nll), datasets),
        scores={
            "image_to_text_accuracy": by_dataset(batch, weight * sides.image_correct, datasets),
            "text_to_image_accuracy": by_dataset(batch, weight * sides.text_correct, datasets),
        },
    )


def _by_rows(function, by_row, whole, whole_results=0):
    """function(*by_row, *whole, axes=...) on each device's rows; `axes` are the mesh axes over which rows lie.

    Results lie by rows, but for the last `whole_results`, which are the same on every device.
    """
    mesh, rows = current_mesh(), by_row[0].shape[0]
    spec = PartitionSpec() if mesh is None else partition_spec((rows,), ("batch",), mesh)
    axes = mesh_axes_of(spec, 0)
    if not axes:
        return function(*by_row, *whole, axes=())
    in_specs = tuple(spec for _ in by_row) + tuple(PartitionSpec() for _ in whole)
    results = jax.eval_shape(functools.partial(function, axes=()), *by_row, *whole)
    leaves, structure = jax.tree.flatten(results)
    by_rows = len(leaves) - whole_results
    out_specs = jax.tree.unflatten(structure, [spec] * by_rows + [PartitionSpec()] * whole_results)
    return jax.shard_map(
        functools.partial(function, axes=axes), mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )(*by_row, *whole)


def _logits(rows: Float[Array, "b E"], columns: Float[Array, "c E"]) -> Float[Array, "b c"]:
    return jnp.einsum("bE,cE->bc", rows, columns, precision="highest")


def _chunks(rows: int, chunk_size: int) -> int:
    """The smallest number of equal parts of at most `chunk_size` rows."""
    return next(parts for parts in range(-(-rows // chunk_size), rows + 1) if rows % parts == 0)


def _softmax_rows(images, texts, there, scale, *, chunk_size: int, axes: tuple[str, ...]) -> Sides:
    """Both directions of a device's rows: its pictures among all texts, and its texts among all pictures."""
    rows = images.shape[0]
    all_images, all_texts, all_there = images, texts, there
    first = jnp.zeros((), jnp.int32)
    if axes:
        all_images, all_texts, all_there = (jax.lax.all_gather(x, axes, tiled=True) for x in (images, texts, there))
        first = (jax.lax.axis_index(axes) * rows).astype(jnp.int32)
    parts = _chunks(rows, chunk_size)

    @jax.checkpoint
    def side(queries, own, among):
        logits = _logits(queries, among) * scale
        at_own = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
        logits = jnp.where(all_there[None], logits, _HIDDEN)
        is_own = jax.lax.broadcasted_iota(own.dtype, logits.shape, 1) == own[:, None]
        correct = at_own > jnp.max(jnp.where(is_own, _HIDDEN, logits), axis=1)
        return jax.nn.logsumexp(logits, axis=1) - at_own, correct.astype(jnp.float32)

    def direction(queries, among):
        own = first + jnp.arange(rows, dtype=jnp.int32)
        cut = (queries.reshape(parts, rows // parts, -1), own.reshape(parts, -1))
        nll, correct = jax.lax.map(lambda part: side(*part, among), cut)
        return jnp.where(there, nll.reshape(-1), 0.0), correct.reshape(-1)

    (image_nll, image_correct), (text_nll, text_correct) = direction(images, all_texts), direction(texts, all_images)
    return Sides(image_nll, text_nll, *jax.lax.stop_gradient((image_correct, text_correct)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _sigmoid(images, texts, scale, bias, there, weights, chunk_size):
    return _sigmoid_over_devices(images, texts, scale, bias, there, weights, chunk_size, gradient=False)[:2]


def _sigmoid_forward(images, texts, scale, bias, there, weights, chunk_size):
    loss, sides, gradients = _sigmoid_over_devices(
        images, texts, scale, bias, there, weights, chunk_size, gradient=True
    )
    return (loss, sides), gradients


def _sigmoid_backward(chunk_size, gradients, cotangents):
    return (*(gradient * cotangents[0] for gradient in gradients), None, None)


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)


def _sigmoid_over_devices(images, texts, scale, bias, there, weights, chunk_size, *, gradient: bool):
    """The loss, both sides of every row, and the gradients of images, texts, scale and bias, formed on the way."""
    around = functools.partial(_around_the_ring, chunk_size=chunk_size, gradient=gradient)
    by_row, numbers = _by_rows(around, (images, texts, there, weights), (scale, bias), whole_results=2)
    at_home, travelled = by_row
    sides = Sides(at_home.nll, travelled.nll, _ahead(at_home), _ahead(travelled))
    loss = jnp.sum(weights * 0.5 * (sides.image_nll + sides.text_nll))
    return loss, sides, (at_home.gradient, travelled.gradient, *numbers)


class _Side(NamedTuple):
    """What a side of the pairs has gathered so far, by its rows: loss, gradient, its own logit and the best other."""

    nll: Float[Array, "b"]
    gradient: Float[Array, "b E"]
    own: Float[Array, "b"]
    best_other: Float[Array, "b"]


def _ahead(side: _Side) -> Float[Array, "B"]:
    return (side.own > side.best_other).astype(jnp.float32)


class _Texts(NamedTuple):
    """A device's texts on their way around all devices; `first` is the number of the first of them."""

    embeddings: Float[Array, "b E"]
    there: Bool[Array, "b"]
    weights: Float[Array, "b"]
    first: Int[Array, ""]
    side: _Side


def _around_the_ring(images, texts, there, weights, scale, bias, *, chunk_size: int, gradient: bool, axes):
    """The texts of each device go around all others, one mesh axis within the other, and come home with their sums."""
    rows = images.shape[0]
    first = jnp.zeros((), jnp.int32)
    if axes:
        first = (jax.lax.axis_index(axes) * rows).astype(jnp.int32)

    def blank(x):
        nothing, low = jnp.zeros((rows,), jnp.float32), jnp.full((rows,), _HIDDEN)
        return _Side(nothing, jnp.zeros_like(x), nothing, low)

    meet = functools.partial(
        _meet, images, there, weights, first, scale, bias, parts=_chunks(rows, chunk_size), gradient=gradient
    )
    numbers = (jnp.zeros_like(scale), jnp.zeros_like(bias))
    start = (blank(images), numbers, _Texts(texts, there, weights, first, blank(texts)))
    at_home, numbers, travelled = _ring(meet, start, axes)
    if axes:
        numbers = jax.tree.map(lambda x: jax.lax.psum(x, axes), numbers)
    return (at_home, travelled.side), numbers


def _ring(meet, carry, axes):
    """`meet` once for the texts of every device along `axes`; the last axis turns fastest."""
    if not axes:
        return meet(carry)
    size = jax.lax.axis_size(axes[0])
    back = [(place, (place - 1) % size) for place in range(size)]

    def turn(carry, _):
        at_home, numbers, travelling = _ring(meet, carry, axes[1:])
        return (at_home, numbers, jax.tree.map(lambda x: jax.lax.ppermute(x, axes[0], back), travelling)), None

    return jax.lax.scan(turn, carry, None, length=size)[0]


def _meet(images, there, weights, first, scale, bias, carry, *, parts: int, gradient: bool):
    """A device's pictures and the texts that are with it now, `parts` of them one after the other."""
    at_home, numbers, texts = carry
    rows = images.shape[0]
    own = first + jnp.arange(rows, dtype=jnp.int32)

    def cut(x):
        return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])

    def step(carry, part):
        at_home, (scale_sum, bias_sum) = carry
        embeddings, text_there, text_weights, number, side = part
        cosines = _logits(images, embeddings)
        logits = cosines * scale + bias
        is_own = own[:, None] == number[None]
        counts = there[:, None] & text_there[None]
        sign = jnp.where(is_own, 1.0, -1.0)
        nll = jnp.where(counts, jax.nn.softplus(-sign * logits), 0.0)
        at_own = jnp.where(is_own, logits, 0.0)
        others = jnp.where(counts & ~is_own, logits, _HIDDEN)
        images_gradient, texts_gradient = at_home.gradient, side.gradient
        if gradient:
            pull = jnp.where(counts, -sign * jax.nn.sigmoid(-sign * logits), 0.0)
            pull = pull * 0.5 * (weights[:, None] + text_weights[None])
            scale_sum, bias_sum = scale_sum + jnp.sum(pull * cosines), bias_sum + jnp.sum(pull)
            pull = pull * scale
            images_gradient += jnp.einsum("bc,cE->bE", pull, embeddings, precision="highest")
            texts_gradient += jnp.einsum("bc,bE->cE", pull, images, precision="highest")
        at_home = _Side(
            at_home.nll + nll.sum(1), images_gradient, at_home.own + at_own.sum(1),
            jnp.maximum(at_home.best_other, others.max(1)),
        )  # fmt: skip
        side = _Side(
            side.nll + nll.sum(0), texts_gradient, side.own + at_own.sum(0), jnp.maximum(side.best_other, others.max(0))
        )
        return (at_home, (scale_sum, bias_sum)), side

    numbered = texts.first + jnp.arange(rows, dtype=jnp.int32)
    pieces = jax.tree.map(cut, (texts.embeddings, texts.there, texts.weights, numbered, texts.side))
    (at_home, numbers), side = jax.lax.scan(step, (at_home, numbers), pieces)
    side = jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), side)
    return at_home, numbers, texts._replace(side=side)
