"""config.json of a family <-> our dataclass, both ways."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

from mmjax.core.config import build
from mmjax.core.errors import InputError
from mmjax.interop.family import Family
from mmjax.interop.settings import Tree


def read_config(family: Family, outside: Tree, **detected: Any) -> Any:
    """Our config that an outside one describes, together with fields `detected` elsewhere.

    Raises:
      InputError: a key is missing, or has a value that cannot be represented.
    """
    fields: dict[str, Any] = {}
    known = {**family.defaults, **outside}
    try:
        for setting in family.settings:
            fields |= setting.read(known)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"config.json has a value of the wrong kind: {error}") from None
    return build(family.config, fields | detected, "config.json")


def write_config(family: Family, config: Any, base: Tree) -> dict[str, Any]:
    """`base` with every key changed that does not already mean what `config` says; other keys stay.

    Raises:
      InputError: the layout has no words for this config; the fields that it cannot express are named.
    """
    outside = copy.deepcopy(dict(base))
    ours = family.canonical(config)
    try:
        before = family.canonical(read_config(family, base)) if base else None
    except InputError:
        before = None
    known = {**family.defaults, **base}
    for setting in family.settings:
        kept = before is not None and all(getattr(before, f) == getattr(ours, f) for f in setting.read(known))
        if not kept:
            for key, value in setting.write(config).items():
                _insert(outside, key, value)
    try:
        again = family.canonical(read_config(family, json.loads(json.dumps(outside))))
    except InputError as error:
        raise InputError(f"this config cannot be written in the {family.model_type} layout: {error}") from None
    lost = [
        f"{field.name}={getattr(ours, field.name)!r} (would become {getattr(again, field.name)!r})"
        for field in dataclasses.fields(config)
        if field.name not in family.not_exported and getattr(ours, field.name) != getattr(again, field.name)
    ]
    if lost:
        raise InputError(f"this config cannot be written in the {family.model_type} layout: {', '.join(lost)}")
    return outside


def _insert(tree: dict, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[last] = value
