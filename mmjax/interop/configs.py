"""config.json of a family <-> our dataclass, both ways, parts and all."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from mmjax.core.config import build
from mmjax.core.errors import InputError
from mmjax.interop.family import Family
from mmjax.interop.settings import Setting, Tree

# What reading a value of the wrong kind may raise.
_WRONG_KIND = (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError)


def read_config(family: Family, outside: Tree, detected: Mapping[str, Any] | None = None) -> Any:
    """Our config that an outside one describes, together with fields `detected` elsewhere ({field: value} for parts).

    Raises:
      InputError: a key is missing, or has a value that cannot be represented.
    """
    fields: dict[str, Any] = {part.field: {} for part in family.parts}
    known = {**family.defaults, **outside}
    try:
        for setting in family.settings:
            _merge(fields, setting.read(known))
    except _WRONG_KIND as error:
        raise InputError(f"config.json has a value of the wrong kind: {error}") from None
    _merge(fields, detected or {})
    for part in family.parts:
        fields[part.field] = read_config(part.family, part.config_in(outside), fields[part.field])
    return build(family.config, fields, "config.json")


def write_config(family: Family, config: Any, base: Tree) -> dict[str, Any]:
    """`base` with every key changed that does not already mean what `config` says; other keys stay.

    Raises:
      InputError: the layout has no words for this config; the fields that it cannot express are named.
    """
    outside = _written(family, config, base)
    ours = _meaning(family, config)
    try:
        again = _meaning(family, read_config(family, json.loads(json.dumps(outside))))
    except InputError as error:
        raise InputError(f"this config cannot be written in the {family.model_type} layout: {error}") from None
    lost = [
        f"{name}={value!r} (would become {again.get(name)!r})"
        for name, value in ours.items()
        if value != again.get(name)
    ]
    if lost:
        raise InputError(f"this config cannot be written in the {family.model_type} layout: {', '.join(lost)}")
    return outside


def same_meaning(family: Family, one: Tree, other: Tree) -> bool:
    """Whether two outside configs say the same."""
    return _meaning(family, read_config(family, one)) == _meaning(family, read_config(family, other))


def _written(family: Family, config: Any, base: Tree) -> dict[str, Any]:
    outside = copy.deepcopy(dict(base))
    for part in family.parts:
        own = _written(part.family, getattr(config, part.field), part.config_in(base))
        if part.apart(base):
            own.setdefault("model_type", part.family.model_type)
            _insert(outside, part.key, own)
        else:
            outside |= {key: value for key, value in own.items() if key not in base or base[key] != value}
    try:
        before = read_config(family, base) if base else None
    except InputError:
        before = None
    known = {**family.defaults, **base}
    for setting in family.settings:
        if before is None or not _agree(family, setting, known, before, config):
            _write(outside, setting, config)
    for setting in family.settings:  # what agreed alone may contradict what was changed beside it
        try:
            setting.read({**family.defaults, **outside})
        except (InputError, *_WRONG_KIND):
            _write(outside, setting, config)
    return outside


def _write(outside: dict[str, Any], setting: Setting, config: Any) -> None:
    for key, value in setting.write(config).items():
        _insert(outside, key, value)


def _agree(family: Family, setting: Setting, known: Tree, before: Any, now: Any) -> bool:
    """Whether the fields that a setting gives are alike in both configs."""
    parts = {part.field: part for part in family.parts}
    before, now = family.canonical(before), family.canonical(now)
    for field, value in setting.read(known).items():
        pair = [getattr(config, field) for config in (before, now)]
        if field in parts:
            pair = [parts[field].family.canonical(config) for config in pair]
        if isinstance(value, Mapping):
            pair = [[getattr(config, inner, None) for inner in value] for config in pair]
        if pair[0] != pair[1]:
            return False
    return True


def _meaning(family: Family, config: Any) -> dict[str, Any]:
    """All that a config says, `part.field` for parts, in a form in which equal means equal."""
    parts = {part.field: part.family for part in family.parts}
    config = family.canonical(config)
    said: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in parts:
            said |= {f"{field.name}.{inner}": v for inner, v in _meaning(parts[field.name], value).items()}
        elif field.name not in family.not_exported:
            said |= _spelt_out(field.name, value)
    return said


def _spelt_out(name: str, value: Any) -> dict[str, Any]:
    """A value by its name; a config within a config field by field."""
    if not dataclasses.is_dataclass(value):
        return {name: value}
    fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return {key: v for field, inner in fields for key, v in _spelt_out(f"{name}.{field}", inner).items()}


def _merge(fields: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Later values of the same field win; those of a part are merged."""
    for field, value in more.items():
        if isinstance(value, Mapping) and isinstance(fields.get(field), dict):
            _merge(fields[field], value)
        else:
            fields[field] = dict(value) if isinstance(value, Mapping) else value


def _insert(tree: dict, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[last] = value
