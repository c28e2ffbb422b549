"""Given answers as a tree of tokens on the device, within which is written and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError
from mmjax.decoding.rows import bucket
from mmjax.decoding.trail import Trail


@flax.struct.dataclass
class Answers:
    """Trees of token sequences. `tokens[m]` may follow at node m, and lead to `nodes[m]`; -1 is none.

    The answers `a b /` and `a c /`, where / ends a text:

        node    0      1      2    3    4  5
        tokens  a .    b c    / .  / .  .  .
        nodes   1 .    2 3    4 .  5 .  .  .
    """

    tokens: Int[Array, "M C"]
    nodes: Int[Array, "M C"]


def plant(groups: Sequence[Sequence[Sequence[int]]]) -> tuple[Answers, Int[np.ndarray, "G"]]:
    """A tree for each group of answers, and where each begins. Sizes are rounded up, so that programs are shared.

    Raises:
      InputError: a group without answers, or an answer without tokens.
    """
    children: list[dict[int, int]] = []
    roots = []
    for answers in groups:
        if not answers or not all(len(answer) for answer in answers):
            raise InputError("a choice needs at least one answer, and none may be empty")
        roots.append(len(children))
        children.append({})
        for answer in answers:
            node = roots[-1]
            for token in map(int, answer):
                if token not in children[node]:
                    children[node][token] = len(children)
                    children.append({})
                node = children[node][token]
    shape = (bucket(len(children), 16), bucket(max(map(len, children)), 4))
    tokens, nodes = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
    for node, own in enumerate(children):
        tokens[node, : len(own)] = list(own)
        nodes[node, : len(own)] = list(own.values())
    return Answers(tokens, nodes), np.array(roots, np.int32)


def within(scores: Float[Array, "B V"], answers: Answers, node: Int[Array, "B"]) -> Float[Array, "B V"]:
    """Minus infinity for what no answer has next; where an answer is over, all scores stay."""
    tokens = answers.tokens[node]
    there = tokens >= 0
    rows = jnp.arange(len(node))[:, None]
    allowed = jnp.zeros(scores.shape, bool)
    allowed = allowed.at[rows, jnp.where(there, tokens, scores.shape[1])].set(True, mode="drop")
    return jnp.where(allowed | ~jnp.any(there, axis=1, keepdims=True), scores, -jnp.inf)


def climb(trail: Trail, answers: Answers, token: Int[Array, "B"], here: Bool[Array, "B"]) -> Trail:
    """The trail after one more token, of the rows that are `here`; what no answer has next leaves the node."""
    chosen = (answers.tokens[trail.node] == token[:, None]) & here[:, None]
    to = jnp.max(jnp.where(chosen, answers.nodes[trail.node], -1), axis=1)
    return trail.replace(node=jnp.where(to >= 0, to, trail.node))
