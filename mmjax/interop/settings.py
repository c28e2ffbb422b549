"""The config of an outside layout <-> our dataclass: a list of settings, each read in both directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmjax.core.errors import InputError

Tree = Mapping[str, Any]


def lookup(tree: Tree, key: str, default: Any = None) -> Any:
    """The value at a dotted key, or the default where any part of it is missing."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node


@dataclasses.dataclass(frozen=True)
class Setting:
    """Fields of ours, and how they are read from an outside config and written into one (as dotted keys)."""

    read: Callable[[Tree], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]


def same(key: str, field: str, default: Any = None) -> Setting:
    """One key that means one field; `default` is what the outside takes where the key is missing."""
    return Setting(lambda outside: {field: lookup(outside, key, default)}, lambda config: {key: getattr(config, field)})


def named(key: str, field: str, names: Mapping[Any, Any], default: Any) -> Setting:
    """One key whose values have other names here; written by the default's name where that fits, else the first."""

    def read(outside: Tree) -> dict[str, Any]:
        value = lookup(outside, key, default)
        if value not in names:
            raise InputError(f"config.json has {key}={value!r}; known are {', '.join(map(repr, names))}")
        return {field: names[value]}

    def write(config: Any) -> dict[str, Any]:
        fitting = [outer for outer, inner in names.items() if inner == getattr(config, field)]
        if not fitting:
            raise InputError(f"this layout has no name for {field}={getattr(config, field)!r}")
        return {key: default if default in fitting else fitting[0]}

    return Setting(read, write)


def fixed(**fields: Any) -> Setting:
    """Fields that every model of the family has alike."""
    return Setting(lambda outside: dict(fields), lambda config: {})


def written(write: Callable[[Any], dict[str, Any]]) -> Setting:
    """Keys that say outside what is seen here by the tensors themselves, so they are not read."""
    return Setting(lambda outside: {}, write)


def labels(count: int) -> dict[str, Any]:
    """The keys of a classifier's config, whose classes have no names here."""
    return {"id2label": {str(label): f"LABEL_{label}" for label in range(count)}}


def only(key: str, *allowed: Any) -> Setting:
    """A key of which only some values can be represented; a missing key has the first of them."""

    def read(outside: Tree) -> dict[str, Any]:
        value = lookup(outside, key, allowed[0])
        if value not in allowed:
            raise InputError(
                f"config.json has {key}={value!r}; only {' or '.join(map(repr, allowed))} is supported here"
            )
        return {}

    return Setting(read, lambda config: {key: allowed[0]})


def within(field: str, settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """Settings whose fields are those of a config within ours."""

    def lifted(setting: Setting) -> Setting:
        def read(outside: Tree) -> dict[str, Any]:
            found = setting.read(outside)
            return {field: found} if found else {}

        return Setting(read, lambda config: setting.write(getattr(config, field)))

    return tuple(map(lifted, settings))


def agrees(key: str, other: str) -> Setting:
    """A key that may only repeat another one, or be missing or null."""

    def read(outside: Tree) -> dict[str, Any]:
        value = lookup(outside, key)
        if value not in (None, lookup(outside, other)):
            raise InputError(f"config.json has {key}={value!r}; only the value of {other} is supported here")
        return {}

    return Setting(read, lambda config: {})
