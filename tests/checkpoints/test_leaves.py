"""Names of leaves: readable, and the same for every kind of tree node that a train state has."""

import jax.numpy as jnp
import optax
import pytest

from mmjax.checkpoints.leaves import check_match, name_leaves
from mmjax.core.batch import Batch
from mmjax.core.errors import InputError


def test_optimizer_states_lists_and_dataclasses_are_named():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init({"decoder/w": jnp.zeros((2,))})
    batch = Batch(**dict.fromkeys(Batch.__dataclass_fields__, 0))
    names = name_leaves({"optimizer": optimizer, "pair": [1, None, (2,)], "batch": batch})
    assert "optimizer/1/0/mu/decoder/w" in names
    assert "optimizer/1/0/count" in names
    assert {"pair/0", "pair/2/0", "batch/tokens", "batch/media_index"} <= names.keys()
    assert list(names)[-1] == "pair/2/0"


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(InputError, match="two leaves named a/b"):
        name_leaves({"a/b": 1, "a": {"b": 2}})


def test_equal_trees_match():
    leaves = {"w": jnp.zeros((2, 3), jnp.bfloat16)}
    check_match(leaves, leaves, "checkpoint")
