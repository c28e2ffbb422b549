"""Parameter paths: nested trees as flat dictionaries `{"decoder/embed/table": leaf}`, and patterns over them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmjax.core.errors import ConfigError


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings into `{path: leaf}`, paths joined by "/", in the tree's own order."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def first_match(patterns: Iterable[str], path: str) -> int:
    """Index of the first pattern that matches the whole path (`re.fullmatch`), or -1."""
    for index, pattern in enumerate(patterns):
        try:
            matched = re.fullmatch(pattern, path)
        except re.error as error:
            raise ConfigError(f"pattern {pattern!r} is not a valid regular expression: {error}") from None
        if matched:
            return index
    return -1


def part_of(path: str, parts: Mapping[str, str]) -> str:
    """Name of the part whose pattern (name -> regular expression) first matches `path`, or its first component."""
    index = first_match(parts.values(), path)
    return list(parts)[index] if index >= 0 else path.split("/")[0]
