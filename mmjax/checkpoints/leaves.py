"""The leaves of a state by name, and the comparison of a state with what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from mmjax.core.arrays import PyTree
from mmjax.core.errors import CheckpointError, InputError


def name_leaves(state: PyTree) -> dict[str, Any]:
    """Leaves of a pytree as `{"optimizer/0/mu/decoder/embed/table": leaf}`, in the tree's own order.

    The keys of dictionaries, the fields of named tuples and dataclasses and the positions of sequences
    are joined by "/".

    Raises:
      InputError: two leaves have the same name.
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = "/".join(_key_name(key) for key in path)
        if name in named:
            raise InputError(f"the state has two leaves named {name}; rename one of them")
        named[name] = leaf
    return named


def select_parts(state: Mapping[str, PyTree], parts: Iterable[str] | None) -> dict[str, PyTree]:
    """The named top-level parts of a state, or all of them for None.

    Raises:
      InputError: the state has no such part.
    """
    if parts is None:
        return dict(state)
    for part in parts:
        if part not in state:
            raise InputError(f"the state has no part {part!r}; it has {', '.join(state)}")
    return {part: state[part] for part in parts}


def check_match(stored: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Compares names, shapes and dtypes of what is stored with what is wanted.

    Raises:
      CheckpointError: naming every leaf that is missing, not wanted, or of another shape or dtype.
    """
    problems = [f"{name}: not in the checkpoint" for name in wanted if name not in stored]
    problems += [f"{name}: in the checkpoint only" for name in stored if name not in wanted]
    for name in wanted:
        if name in stored and _describe(stored[name]) != _describe(wanted[name]):
            problems.append(f"{name}: {_describe(stored[name])} in the checkpoint, {_describe(wanted[name])} wanted")
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(
            f"{where} does not fit the model: {len(problems)} of its leaves differ. Use the configuration that it was "
            f"saved with, or another directory.\n  {listed}"
        )


def _describe(leaf) -> str:
    return f"{jax.numpy.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _key_name(key) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    raise InputError(f"the state has a tree node of a kind that cannot be named: {key!r}")
