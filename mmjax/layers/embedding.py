"""Looking tokens up in a table that is spread over a mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.core.arrays import Array, Float, Int
from mmjax.parallel.gathering import gathered
from mmjax.parallel.sharding import STORAGE, constrain, current_mesh, mesh_axes_of, partition_spec


def lookup(table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Rows of the table, in its dtype, in which its gradient adds up too.

    On a mesh each device looks up the tokens of all devices among which the width is split, in the columns that it
    holds; then columns are exchanged for rows. So what is sent are vectors of tokens, not the table.
    """
    mesh = current_mesh()
    if mesh is None:
        return jnp.take(table, tokens, axis=0)
    rules = STORAGE["hybrid"][0]
    columns = mesh_axes_of(partition_spec(table.shape, ("vocab", "embed"), mesh, rules), 1)
    rows = partition_spec(tokens.shape, ("batch", "length"), mesh)
    others = [tuple(name for name in mesh_axes_of(rows, place) if name not in columns) for place in range(2)]

    def place(x, *spec):
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))

    table = gathered(table, "vocab", "embed", rules=rules)
    found = jnp.take(table, place(tokens, *others), axis=0)
    return constrain(place(found, *others, columns), "batch", "length", "embed")
