"""What generation needs of a model of any family: what it reads first, and how it goes on a few tokens at a time."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Int
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import DecoderCache, DecoderOutput, empty_cache, one_by_one
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.ops.attention import chosen_platform
from mmjax.parallel.sharding import current_mesh, nested

# Of the further arguments of `decode`, those that have a place for each token: [B, T, ...].
_OF_TOKENS = ("media_index", "media_allowed")
# And of the prompt's alone; `inline` has too.
_OF_PROMPT = ("blocks", "rope_positions", "token_types", "prefix")

# Parameters of the layers that may be copied to lie as few rows want them; fewer than the first stay in a processor's
# cache anyway, where programs of single layers would only take longer to compile.
AT_HAND_BYTES = (1 << 20, 4 << 30)
# The copies, by what they are copies of.
_KEPT: dict[tuple[tuple[str, int], ...], dict[str, Array]] = {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Opening:
    """What is read before anything is written: rows of prompts, and what stands in the place of their pictures.

    segments: 1 where a token is, 0 at padding, wherever in the row it stands.
    first: further arguments of `decode` for the prompt; later: those for each token written after it.
    next_position, next_place: of the first token written, one a row: in the row's order, and in its cache.
    sequences: what stands before the written tokens in what the reference returns, and what penalties count.
    """

    tokens: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    segments: Int[Array, "B T"]
    first: dict[str, Any]
    later: dict[str, Any]
    next_position: Int[Array, "B"]
    next_place: Int[Array, "B"]
    sequences: Int[Array, "B S"]


@dataclasses.dataclass(frozen=True)
class Decode:
    """A model's `method` as a `Writer` asks for it; two of the same model are equal, so that programs are kept."""

    model: nn.Module
    method: str = "decode"

    def __call__(
        self,
        parameters: Mapping[str, Array],
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        **further: Any,
    ) -> DecoderOutput:
        return self.model.apply(nested(parameters), tokens, positions, segments, method=self.method, **further)


@dataclasses.dataclass(frozen=True)
class Writer:
    """What generation needs of a model: its decoder's config, what its cache holds, and `decode`.

    stop: the token that ends a row, where it is not the one that the checkpoint's files name.
    dtype: of the cache.
    decode(parameters, tokens, positions, segments, cache=, write_index=, **further) -> DecoderOutput
    """

    decoder: DecoderConfig
    cross: GatedCrossAttentionConfig | None
    media_length: int
    decode: Callable[..., DecoderOutput]
    stop: int | None = None
    dtype: Any = jnp.float32


def lengthen(opening: Opening, length: int) -> Opening:
    """The same opening in rows of `length` places, so that few lengths serve all prompts; those behind it are empty."""
    room = length - opening.tokens.shape[1]

    def pad(x):
        return None if x is None else jnp.pad(x, ((0, 0), (0, room), *((0, 0),) * (x.ndim - 2)))

    first = {name: pad(x) if name in (*_OF_TOKENS, *_OF_PROMPT) else x for name, x in opening.first.items()}
    if first.get("inline") is not None:
        first["inline"] = first["inline"].replace(index=pad(first["inline"].index))
    of_rows = {name: pad(getattr(opening, name)) for name in ("tokens", "positions", "segments", "sequences")}
    return dataclasses.replace(opening, first=first, **of_rows)


def begin(writer: Writer, parameters: Mapping[str, Array], opening: Opening, *, spare: int) -> DecoderOutput:
    """Reads the opening into a cache with `spare` more places; the output [B,1,D] is of each row's last token.

    Places of a row's cache, for prompts of 3 and 4 tokens in rows of 5 and two spare places:

        place  0 1 2 . . | . .      . is empty (segment 0), seen by none, and may be written next:
               0 1 2 3 . | . .      row 0 goes on at place 3, row 1 at place 4
    """
    batch, length = opening.tokens.shape
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
    cache = empty_cache(
        writer.decoder,
        writer.cross,
        batch=batch,
        length=length + spare,
        media_length=writer.media_length,
        dtype=writer.dtype,
    )
    output = writer.decode(
        parameters,
        opening.tokens,
        opening.positions,
        opening.segments,
        cache=cache,
        **opening.first,
    )
    last = jnp.max(jnp.where(opening.segments == 1, places, 0), axis=1)
    return output.replace(hidden=output.hidden[jnp.arange(batch), last][:, None])


def go_on(
    writer: Writer,
    parameters: Mapping[str, Array],
    cache: DecoderCache,
    opening: Opening,
    tokens: Int[Array, "B T"],
    present: Bool[Array, "B T"],
    written: Int[Array, "B"] | Int[Array, ""],
) -> DecoderOutput:
    """Reads `tokens` after the `written` ones that each row has already; absent ones leave no trace."""
    batch, length = tokens.shape
    ahead = jnp.broadcast_to(written, (batch,))[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
    # Absent tokens are at position 0: a table of learned positions need not reach as far as the padding.
    positions = jnp.where(present, opening.next_position[:, None] + ahead, 0)
    further = {
        name: jnp.repeat(value, length, axis=1) if name in _OF_TOKENS else value
        for name, value in opening.later.items()
    }
    return writer.decode(
        parameters,
        tokens,
        positions,
        present.astype(jnp.int32),
        cache=cache,
        write_index=opening.next_place[:, None] + ahead,
        **further,
    )


def at_hand(writer: Writer, parameters: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters as `go_on` reads them fastest, for a loop that writes many tokens; they are kept as these are.

    On CPU a product with few rows takes as long as its kernel takes to be read. So each superblock's parameters are
    taken from the stack once instead of in every step, and kernels are transposed; within `AT_HAND_BYTES`.
    Elsewhere, and on a mesh, they stay as they are. `begin` reads them too.
    """
    stack = {path: value for path, value in parameters.items() if path.removeprefix("decoder/").startswith("layers/")}
    size = sum(value.size * value.dtype.itemsize for value in stack.values())
    least, most = AT_HAND_BYTES
    if chosen_platform() != "cpu" or current_mesh() is not None or not least <= size <= most:
        return dict(parameters)
    rest = {path: value for path, value in parameters.items() if path not in stack}
    if any(isinstance(value, jax.core.Tracer) for value in stack.values()):
        return rest | _taken_apart(stack)
    key = tuple((path, id(value)) for path, value in stack.items())
    if key not in _KEPT:
        _KEPT[key] = _taken_apart(stack)
        for value in stack.values():
            # Another array may have its identity then.
            weakref.finalize(value, _KEPT.pop, key, None).atexit = False
    return rest | _KEPT[key]


@jax.jit
def _taken_apart(stack):
    apart = {}
    for path, value in stack.items():
        before, _, after = path.partition("layers/")
        for number in range(len(value)):
            name, one = after, value[number]
            if name.endswith("/kernel"):
                # The product of the heads has two dimensions of inputs, all others one.
                inputs = 2 if name.split("/")[-2] == "out" else 1
                one = jnp.transpose(one, (*range(inputs, one.ndim), *range(inputs)))
                name = f"{name.removesuffix('kernel')}transposed"
            apart[f"{before}{one_by_one(number)}/{name}"] = one
    # So that the copies are made here, and not again where they are used.
    return jax.lax.optimization_barrier(apart)
