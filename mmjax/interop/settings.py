"""The config of an outside layout <-> our dataclass: a list of settings, each read in both directions."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmjax.core.errors import ConfigError, InputError

Tree = Mapping[str, Any]
REQUIRED = object()


def lookup(tree: Tree, key: str, default: Any = None) -> Any:
    """The value at a dotted key, or the default where any part of it is missing."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node


def _insert(tree: dict, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[last] = value


@dataclasses.dataclass(frozen=True)
class Setting:
    """Fields of ours, and how they are read from an outside config and written into one (as dotted keys)."""

    read: Callable[[Tree], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]


def same(key: str, field: str, default: Any = REQUIRED) -> Setting:
    """One key that means one field; `default` is what the outside takes where the key is missing."""

    def read(outside: Tree) -> dict[str, Any]:
        value = lookup(outside, key, default)
        if value is REQUIRED:
            raise InputError(f"config.json lacks {key!r}")
        return {field: value}

    return Setting(read, lambda config: {key: getattr(config, field)})


def named(key: str, field: str, names: Mapping[Any, Any], default: Any = REQUIRED) -> Setting:
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


def agrees(key: str, other: str) -> Setting:
    """A key that may only repeat another one, or be missing or null."""

    def read(outside: Tree) -> dict[str, Any]:
        value = lookup(outside, key)
        if value not in (None, lookup(outside, other)):
            raise InputError(f"config.json has {key}={value!r}; only the value of {other} is supported here")
        return {}

    return Setting(read, lambda config: {})


def read_settings(cls: type, settings: Sequence[Setting], outside: Tree, **detected: Any) -> Any:
    """The dataclass `cls` that an outside config describes, together with fields `detected` elsewhere.

    Raises:
      InputError: a key is missing, or has a value that cannot be represented.
    """
    fields: dict[str, Any] = {}
    for setting in settings:
        fields |= setting.read(outside)
    return cls(**(fields | detected))


def write_settings(
    settings: Sequence[Setting],
    config: Any,
    base: Tree,
    *,
    canonical: Callable[[Any], Any] = lambda config: config,
    not_exported: Sequence[str] = (),
) -> dict[str, Any]:
    """`base` with every key changed that does not already mean what `config` says; other keys stay.

    Two configs mean the same when they are equal after `canonical`, but for the fields `not_exported`.

    Raises:
      InputError: the layout has no words for this config; the fields that it cannot express are named.
    """
    outside = copy.deepcopy(dict(base))
    try:
        before = canonical(read_settings(type(config), settings, base)) if base else None
    except InputError:
        before = None
    ours = canonical(config)
    for setting in settings:
        kept = before is not None and all(getattr(before, f) == getattr(ours, f) for f in setting.read(base))
        if not kept:
            for key, value in setting.write(config).items():
                _insert(outside, key, value)
    try:
        again = canonical(read_settings(type(config), settings, json.loads(json.dumps(outside))))
    except ConfigError as error:
        raise InputError(f"this config cannot be written in the outside layout: {error}") from None
    lost = [
        f"{field.name}={getattr(ours, field.name)!r} (would become {getattr(again, field.name)!r})"
        for field in dataclasses.fields(config)
        if field.name not in not_exported and getattr(ours, field.name) != getattr(again, field.name)
    ]
    if lost:
        raise InputError(f"this config cannot be written in the outside layout: {', '.join(lost)}")
    return outside
