"""Where in its picture a token looked: its cross-attention over the latents, through the resampler, to the patches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mmjax.core.arrays import Array, Float, Int, UInt8
from mmjax.core.batch import Batch
from mmjax.core.errors import InputError
from mmjax.core.paths import flatten
from mmjax.layers.attention import AttentionConfig
from mmjax.models.flamingo import Flamingo
from mmjax.parallel.sharding import nested
from mmjax.text.tokenizer import Tokenizer

_LONGEST = 32  # tokens of an answer that are compared with the prediction


class Place(NamedTuple):
    """A token of a batch: its row, and its position in the row."""

    row: int
    position: int


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """The attention of one token over the picture that it looks at.

    heat: how much of the attention falls on a place, as a multiple of an even look: its mean is 1. The frames of a
      video stand side by side, in `picture` and in `heat`.
    token: what the model writes at this place. prompt: the text before it, pictures as ▣.
    answer: what is right to write from here on; "" where the batch does not say. prediction: what the model puts there,
      each token given the right ones before it.
    """

    picture: UInt8[np.ndarray, "h w 3"]
    heat: Float[np.ndarray, "h w"]
    token: str
    prompt: str
    answer: str
    prediction: str

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is the answer; None where the answer is not known."""
        return self.prediction == self.answer if self.answer else None


def answer_places(batch: Batch, tokenizer: Tokenizer, limit: int) -> list[Place]:
    """The first places of `batch` from which an answer about a picture is written, at most one of each example.

    It is the last answer of the example (the query of an episode), and of it the place that writes the first visible
    character: a space before a word tells nothing.
    """
    tokens = jax.tree.map(np.asarray, (batch.segment_ids, batch.loss_weights, batch.media_index, batch.targets))
    places = []
    for row, (segments, weights, media, targets) in enumerate(zip(*tokens, strict=True)):
        for segment in range(1, segments.max(initial=0) + 1):
            learned = np.flatnonzero((segments == segment) & (weights > 0) & (media > 0))
            if not learned.size:
                continue
            breaks = np.flatnonzero((np.diff(learned) > 1) | (np.diff(media[learned]) != 0))
            answer = learned[breaks[-1] + 1 :] if breaks.size else learned
            visible = [place for place in answer if tokenizer.decode([targets[place]]).strip()]
            if visible:
                places.append(Place(row, int(visible[0])))
            if len(places) == limit:
                return places
    return places


def attention_maps(
    model: Flamingo,
    params: Mapping[str, Array],
    batch: Batch,
    places: Sequence[Place],
    tokenizer: Tokenizer,
) -> list[AttentionMap]:
    """A map for each of `places`, in order. `params` are flat, by path.

    The share of a patch is the sum over the latents of (cross-attention of the token to the latent, mean over heads and
    cross-attention blocks) times (what of the latent stems from the patch, see `patch_shares`), and the shares
    of the picture are made to sum to 1. A patch stands for its place in the picture; the vision encoder may
    have mixed its neighbours into it.

    Raises:
      InputError: a place that is not in the batch, or whose token looks at no picture; a model without a resampler.
    """
    if not places:
        return []
    if model.config.resampler is None:
        raise InputError("attention maps are followed through a resampler, and this model has none; leave them out")
    host: Batch = jax.tree.map(np.asarray, batch)
    _check_places(host, places)
    rows, positions = (np.array(column, np.int32) for column in zip(*places, strict=True))
    shares, predicted = jax.device_get(_shares_and_tokens(model, dict(params), batch, rows, positions))
    return [
        _make_map(model, host, place, share, tokens, tokenizer)
        for place, share, tokens in zip(places, shares, predicted, strict=True)
    ]


def patch_shares(
    model: Flamingo,
    params: Mapping[str, Array],
    batch: Batch,
    rows: Int[Array, "S"],
    positions: Int[Array, "S"],
) -> Float[Array, "S F P"]:
    """For tokens at (rows, positions), the share of attention on each patch of each frame of their picture; sums to 1.

    What of a latent stems from which patch is followed through the resampler's layers by attention rollout (Abnar and
    Zuidema 2020, arXiv:2005.00928): each layer keeps half of what a latent had, and mixes in half of what its attention
    (mean over heads) reads, from patches directly and from other latents by what they have.
    """
    return _shares_and_tokens(model, dict(params), batch, rows, positions)[0]


@functools.partial(jax.jit, static_argnums=0)
def _shares_and_tokens(model, params, batch, rows, positions):
    """`patch_shares`, and the most probable next tokens [S, _LONGEST] at the places and those that follow."""
    output, sown = model.apply(nested(params), batch, mutable=["attention"])
    seen = {path: value[0] for path, value in flatten(sown["attention"]).items()}
    media = jnp.take_along_axis(batch.media_index[rows], positions[:, None], axis=1)[:, 0] - 1
    latents = _cross_weights(model, seen, rows, positions, media)
    frames = batch.image_mask if batch.image_mask.ndim == 3 else batch.image_mask[:, :, None]
    sources = _latent_sources(model, seen, rows, media, frames)
    shares = jnp.einsum("sr,srp->sp", latents, sources)
    shares = shares / shares.sum(-1, keepdims=True)
    follow = jnp.minimum(positions[:, None] + jnp.arange(_LONGEST)[None], batch.tokens.shape[1] - 1)
    hidden = output.hidden[rows[:, None], follow]
    logits = jnp.einsum("std,vd->stv", hidden, output.unembedding.astype(hidden.dtype))
    return shares.reshape(len(rows), frames.shape[-1], -1), jnp.argmax(logits, axis=-1)


def _cross_weights(model, seen, rows, positions, media) -> Float[Array, "S R"]:
    """Attention of the tokens to the latents of their picture, mean over heads and blocks.

    A token sees the latents of no other picture, so that the softmax is over these alone.
    """
    count = model.config.resampler.latents
    blocks = []
    for path in seen:
        if not (path.startswith("decoder/") and "/cross_" in path and path.endswith("/queries")):
            continue
        query, key = seen[path], seen[path.removesuffix("queries") + "keys"]
        if query.ndim == 4:  # in the tail, not in the scan
            query, key = query[None], key[None]
        query = query[:, rows, positions][:, :, None]
        key = key.reshape(*key.shape[:2], -1, count, *key.shape[3:])[:, rows, media]
        blocks.append(_weights(model.config.cross.attention, query, key)[:, :, 0])
    return jnp.concatenate(blocks).mean(axis=0)


def _latent_sources(model, seen, rows, media, frames) -> Float[Array, "S R P"]:
    """What of each latent of the pictures stems from which patch, the patches of all frames in a row."""
    config = model.config.resampler

    def of_pictures(name):
        value = seen[f"resampler/layers/attention/{name}"]
        return value.reshape(config.layers, -1, frames.shape[1], *value.shape[2:])[:, rows, media]

    query, key = of_pictures("queries"), of_pictures("keys")
    patches = key.shape[2] - config.latents
    present = jnp.repeat(frames[rows, media], patches // frames.shape[2], axis=1)
    allowed = jnp.concatenate([present, jnp.ones((len(rows), config.latents), bool)], axis=1)
    weights = _weights(AttentionConfig(config.heads, config.head_width), query, key, allowed[None, :, None])

    def layer(sources, weights):
        read = weights[..., :patches] + jnp.einsum("srq,sqp->srp", weights[..., patches:], sources)
        return (sources + read) / 2, None

    start = jnp.zeros((len(rows), config.latents, patches), jnp.float32)
    return jax.lax.scan(layer, start, weights)[0]


def _weights(config: AttentionConfig, query, key, allowed=None) -> Float[Array, "L S T R"]:
    """Attention weights, mean over heads, of sown queries [L S T H K] and keys [L S R G K]."""
    query, key = query.astype(jnp.float32), key.astype(jnp.float32)
    key = jnp.repeat(key, query.shape[-2] // key.shape[-2], axis=-2)
    scale = config.head_width**-0.5 if config.scale is None else config.scale
    scores = jnp.einsum("lsthk,lsrhk->lshtr", query, key, precision="highest") * scale
    if config.softcap is not None:
        scores = config.softcap * jnp.tanh(scores / config.softcap)
    if allowed is not None:
        scores = jnp.where(allowed[:, :, None], scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1).mean(axis=2)


def _check_places(batch: Batch, places: Iterable[Place]) -> None:
    count, length = batch.tokens.shape
    for row, position in places:
        if not (0 <= row < count and 0 <= position < length):
            raise InputError(f"row {row}, position {position} is not in a batch of {count} rows of {length} tokens")
        media = batch.media_index[row, position]
        if media == 0 or not batch.image_mask[row, media - 1].any():
            raise InputError(
                f"the token at row {row}, position {position} looks at no picture, so there is nothing to draw; give a "
                "position at or after an image token"
            )


def _make_map(model, batch, place, share, predicted, tokenizer) -> AttentionMap:
    row, position = place
    media = int(batch.media_index[row, position]) - 1
    frames, present = batch.images[row, media], batch.image_mask[row, media]
    if frames.ndim == 3:
        frames, present = frames[None], present[None]
    height, width = frames.shape[1:3]
    patch = model.config.vision.patch_size
    # A mean of 1 before it is enlarged; bilinear interpolation keeps it but for the edges, hence the division.
    grids = share.reshape(len(frames), height // patch, width // patch) * (present.sum() * share.shape[1])
    heat = np.concatenate([_enlarge(grid, width, height) for grid in grids[present]], axis=1)
    start = position
    while start > 0 and batch.segment_ids[row, start - 1] == batch.segment_ids[row, position]:
        start -= 1
    answer = _answer_length(batch, row, position)
    return AttentionMap(
        picture=np.concatenate(frames[present], axis=1),
        heat=heat / heat.mean(),
        token=tokenizer.decode(predicted[:1]),
        prompt=_readable(batch.tokens[row, start : position + 1], tokenizer),
        answer=tokenizer.decode(batch.targets[row, position : position + answer]).strip(),
        prediction=tokenizer.decode(predicted[:answer]).strip(),
    )


def _answer_length(batch, row, position) -> int:
    """How many tokens of the answer are written from `position` on."""
    here = slice(position, position + _LONGEST)
    alike = (
        (batch.loss_weights[row, here] > 0)
        & (batch.segment_ids[row, here] == batch.segment_ids[row, position])
        & (batch.media_index[row, here] == batch.media_index[row, position])
    )
    return int(np.cumprod(alike).sum())


def _readable(tokens, tokenizer) -> str:
    """Text of tokens, with a mark for each picture."""
    image = tokenizer.special["image"]
    places = np.flatnonzero(tokens == image)
    pieces = np.split(tokens, places)
    return "▣".join(tokenizer.decode(piece[piece != image]) for piece in pieces)


def _enlarge(grid, width, height):
    picture = Image.fromarray(grid.astype(np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
