"""Keys and values that a layer keeps from one call to the next: where new ones go, and what is attended to."""

from __future__ import annotations

from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float, Int, Shaped
from mmjax.ops.masks import AttentionMask


@flax.struct.dataclass
class KeyValue:
    """Keys and values of one layer, or of a stack of layers with a leading axis: what a cache holds."""

    key: Float[Array, "*L B S G K"]
    value: Float[Array, "*L B S G K"]

    def of_layer(self, layer: Int[Array, ""] | None) -> KeyValue:
        """Those of one layer of a stack; without `layer`, itself."""
        return self if layer is None else jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, layer, 0, False), self)

    def before(self, other: KeyValue) -> KeyValue:
        """These, and the others behind them."""
        return jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), self, other)


@flax.struct.dataclass
class Meeting:
    """How the T tokens of a call meet a cache of S places.

    mask: over the keys that are attended to, which are:
      "own": the tokens' own alone (the cache is empty), "cache": all of the cache, once they are written into it,
      "both": what the cache held before, and the tokens' own behind it.
    places: where each token goes; S: nowhere. Or
    sources: which token comes to each place; -1: what stands there stays. Without either: the first T places.
    """

    mask: AttentionMask
    places: Int[Array, "B T"] | None = None
    sources: Int[Array, "B S"] | None = None
    attends: Literal["own", "cache", "both"] = flax.struct.field(pytree_node=False, default="own")

    def write(self, cache: KeyValue, pair: KeyValue, layer: Int[Array, ""] | None) -> KeyValue:
        """The cache (or the stack of which it is one layer) with the tokens' keys and values in their places."""
        return jax.tree.map(lambda held, new: self._written(held, new.astype(held.dtype), layer), cache, pair)

    def attended(self, before: KeyValue, after: KeyValue, pair: KeyValue, layer: Int[Array, ""] | None) -> KeyValue:
        """Of the cache before and after the tokens were written, and of their own: what is attended to."""
        if self.attends == "own":
            return pair
        if self.attends == "cache":
            return after.of_layer(layer)
        held = jax.tree.map(lambda old, new: old.astype(new.dtype), before.of_layer(layer), pair)
        return held.before(pair)

    def _written(self, held, new, layer):
        stacked = () if layer is None else (layer,)
        if self.places is not None:
            rows = jnp.arange(len(new))[:, None]
            return held.at[(*stacked, rows, self.places)].set(new, mode="drop")
        if self.sources is not None:
            there = held if layer is None else jax.lax.dynamic_index_in_dim(held, layer, 0, False)
            new = merge(there, new, self.sources)
        start = (*stacked, *(0,) * new.ndim)
        return jax.lax.dynamic_update_slice(held, new.reshape((1,) * len(stacked) + new.shape), start)


def merge(
    held: Shaped[Array, "B S *K"], new: Shaped[Array, "B T *K"], sources: Int[Array, "B S"]
) -> Shaped[Array, "B S *K"]:
    """`held [B,S,...]` with `new[b, sources[b,s]]` at place s; where the source is -1, what stands there stays."""
    index = sources.reshape(*sources.shape, *(1,) * (held.ndim - 2))
    return jnp.where(index >= 0, jnp.take_along_axis(new, jnp.maximum(index, 0), axis=1), held)
