"""Over which mesh axes a loss splits its vocabulary: those along which words are cheaper to send than tokens."""

from __future__ import annotations

import itertools
import math

from mmjax.ops.losses import LossShards
from mmjax.parallel.sharding import current_mesh, mesh_axes_of, partition_spec

# Bytes sent for each number: of the kernel in 16 bits and its gradient in 32, and of the hidden states and theirs.
_BYTES = 2 + 4


def loss_shards(hidden: tuple[int, int, int], kernel: tuple[int, int], chunk_size: int) -> LossShards | None:
    """How to spread the loss of hidden states [B,T,D] and a kernel [V,D] over the mesh around; None without one.

    Along an axis that splits the vocabulary, the hidden states of all its devices are sent around; along the others
    each device gets the kernel. Of all sets of axes within a slice, that with the least to send is taken, among those
    where kernel and gradient take no more room than the logits of `chunk_size` tokens.
    """
    mesh = current_mesh()
    if mesh is None:
        return None
    spec = partition_spec(hidden, ("batch", "length", None), mesh)
    rows, length = mesh_axes_of(spec, 0), mesh_axes_of(spec, 1)
    tokens, (words, width) = (*rows, *length), kernel
    own_tokens = hidden[0] * hidden[1] // math.prod(mesh.shape[axis] for axis in tokens)

    def sent(vocab: tuple[str, ...]) -> int:
        ways = math.prod(mesh.shape[axis] for axis in vocab)
        others = math.prod(mesh.shape[axis] for axis in vocab if axis in tokens)
        of_kernel = words // ways * width if any(axis not in vocab for axis in tokens) else 0
        return _BYTES * (of_kernel + own_tokens * (others - 1) * width)

    free = [axis for axis in ("tensor", "sequence", "data", "fsdp") if mesh.shape[axis] > 1]
    sets = [set_ for size in range(len(free) + 1) for set_ in itertools.combinations(free, size)]
    fitting = [vocab for vocab in sets if words % math.prod(mesh.shape[axis] for axis in vocab) == 0]

    def too_large(vocab: tuple[str, ...]) -> float:
        ways = math.prod(mesh.shape[axis] for axis in vocab)
        return max(1.0, _BYTES * width / ways / (4 * chunk_size))

    # `tensor` splits no tokens, so it splits words wherever it can.
    best = min(fitting, key=lambda vocab: ("tensor" in free and "tensor" not in vocab, too_large(vocab), sent(vocab)))
    return LossShards(mesh, rows, length, best)
