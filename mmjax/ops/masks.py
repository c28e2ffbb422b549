"""Who sees whom in attention, kept as rules and only spelt out as a grid where a backend needs one."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Int
from mmjax.core.errors import InputError

MASK_ARRAYS = (
    "query_segments",
    "key_segments",
    "query_positions",
    "key_positions",
    "prefix",
    "query_blocks",
    "key_blocks",
    "allowed",
)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=MASK_ARRAYS,
    meta_fields=["causal", "window", "window_cuts_blocks"],
)
@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """Rules that say which keys a query sees; all of them together must allow a pair.

    `#` marks a key (column) that a query (row) sees.

    Nothing set:

        # # # #
        # # # #
        # # # #
        # # # #

    causal=True: no key at a later position.

        # . . .
        # # . .
        # # # .
        # # # #

    causal=True, window=2: of these, only the last two positions, the query's own included.

        # . . .
        # # . .
        . # # .
        . . # #

    causal=True, prefix=[1, 1, 0, 0]: keys of the prefix are seen by earlier (and, with a window, by
    distant) queries of their segment too.

        # # . .
        # # . .
        # # # .
        # # # #

    causal=True, both blocks=[0, 1, 1, 0] (an image of two places within a text): keys of the query's own block
    are seen too, whatever the order and the window (`window_cuts_blocks`: not beyond the window); block 0 is none.

        # . . .
        # # # .
        # # # .
        # # # #

    causal=True, both segments=[1, 1, 2, 0] (two packed examples and padding): only keys of the
    query's own segment; a query of segment 0 sees nothing, and a key of segment 0 is seen by none.

        # . . .
        # # . .
        . . # .
        . . . .

    query_segments=[0, 1, 1, 2], key_segments=[1, 1, 2, 2] (cross-attention to images, whose numbers
    are the segments): each text token sees its own image only, text before the first image none.

        . . . .
        # # . .
        # # . .
        . . # #

    causal=True, query_positions=[2, 3], key_segments=[1, 1, 1, 1, 0] (two new tokens against a cache
    of five slots, of which four are filled).

        # # # . .
        # # # # .

    allowed=[[0, 1], [1, 1]] (who may see whom spelt out, where no rule says it): only these pairs. Such a mask is as
    large as the scores; the flash kernels do not take it.

        . #
        # #

    A side without segments is of segment 1 throughout; a side without positions has 0, 1, 2, ...
    Leave the positions unset where they only restart at each packed example: segments lie in a row,
    so the order within one is the same, and the flash kernels need no positions then.

    `causal` and `window` are static, the arrays are leaves: a mask goes through jit and scan as it is.

    Raises:
      InputError: a window without `causal`, or one below 1.
    """

    query_segments: Int[Array, "B T"] | None = None
    key_segments: Int[Array, "B S"] | None = None
    query_positions: Int[Array, "B T"] | None = None
    key_positions: Int[Array, "B S"] | None = None
    prefix: Bool[Array, "B S"] | None = None
    query_blocks: Int[Array, "B T"] | None = None
    key_blocks: Int[Array, "B S"] | None = None
    allowed: Bool[Array, "B T S"] | None = None
    causal: bool = False
    window: int | None = None
    window_cuts_blocks: bool = False

    def __post_init__(self):
        if self.window is not None and (not self.causal or self.window < 1):
            raise InputError(
                f"an attention window of {self.window} needs causal=True and at least 1 position; "
                "set causal=True, or leave window=None to see everything"
            )

    @property
    def sees_all(self) -> bool:
        """Whether every query sees every key, so that no mask is needed."""
        unruled = self.query_segments is None and self.key_segments is None and self.allowed is None
        return not self.causal and unruled

    def positions(self, queries: int, keys: int) -> tuple[Int[Array, "B T"], Int[Array, "B S"]]:
        """Positions of both sides, with 0, 1, 2, ... (and B=1) for a side that has none."""
        query, key = self.query_positions, self.key_positions
        return (
            jnp.arange(queries, dtype=jnp.int32)[None] if query is None else query,
            jnp.arange(keys, dtype=jnp.int32)[None] if key is None else key,
        )

    def dense(self, queries: int, keys: int) -> Bool[Array, "B T S"]:
        """The grid for `queries` and `keys` positions; B=1 where nothing depends on the batch."""
        grid = jnp.ones((1, queries, keys), bool)
        if self.causal:
            query, key = self.positions(queries, keys)
            distance = query[:, :, None] - key[:, None, :]
            near = jnp.ones((), bool) if self.window is None else distance < self.window
            grid = (distance >= 0) & near
            if self.prefix is not None:
                grid |= self.prefix[:, None, :]
            if self.query_blocks is not None:
                own = self.query_blocks[:, :, None]
                together = (own == self.key_blocks[:, None, :]) & (own != 0)
                grid |= together & near if self.window_cuts_blocks else together
        if self.query_segments is not None or self.key_segments is not None:
            one = jnp.ones((1, 1), jnp.int32)
            query = one if self.query_segments is None else self.query_segments
            key = one if self.key_segments is None else self.key_segments
            grid &= (query[:, :, None] == key[:, None, :]) & (query != 0)[:, :, None]
        if self.allowed is not None:
            grid &= self.allowed
        return grid
