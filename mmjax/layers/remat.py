"""What the backward pass computes again instead of keeping it: one table of policies for every tower."""

from __future__ import annotations

from typing import Literal, TypeVar

import flax.linen as nn
import jax

Remat = Literal["none", "dots_attention", "dots", "attention", "full"]

_policies = jax.checkpoint_policies
_dots = _policies.dots_with_no_batch_dims_saveable
_attention = _policies.save_only_these_names("attention")

# What is kept, from most to least; the names are those that `ops.attention` gives.
POLICIES = {
    "dots_attention": _policies.save_from_both_policies(_dots, _attention),
    "dots": _dots,
    "attention": _attention,
    "full": _policies.nothing_saveable,
}

M = TypeVar("M", bound=type[nn.Module])


def remat(block: M, policy: Remat) -> M:
    """`block`, of which the backward pass keeps what `policy` says, besides its inputs.

    "none": everything.  "dots": the products with weights.  "attention": what attention needs to be taken backwards, so
    that no block attends twice.  "dots_attention": both.  "full": nothing.
    """
    return block if policy == "none" else nn.remat(block, policy=POLICIES[policy], prevent_cse=False)
