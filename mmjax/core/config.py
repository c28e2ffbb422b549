"""Mappings -> frozen dataclasses, strictly: one error that names the path and the nearest valid key."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from mmjax.core.errors import ConfigError

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], path: str = "config") -> T:
    """Builds the dataclass `cls` from a tree of mappings.

    Nested dataclasses, unions with None, tuples, lists, mappings and `Literal` are followed by type. An int
    is accepted for a float; nothing else is converted.

    Raises:
      ConfigError: an unknown key (with the nearest valid one), a wrong type, or a missing value.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} must be a group of settings ({cls.__name__}), not {_show(values)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{path}.{key} is not a setting{nearest(key, fields)}")
    arguments = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _convert(hints[name], values[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{path}.{name} is missing; it must be set ({_name(hints[name])})")
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def nearest(key: str, valid: collections.abc.Iterable[str]) -> str:
    """A hint for an error message: the nearest valid key, or the list of all of them."""
    valid = list(valid)
    close = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; valid are: {', '.join(sorted(valid))}" if valid else ""


def to_tree(value: Any) -> Any:
    """A dataclass (or a tree of them) as plain dictionaries and lists, ready for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_tree(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_tree(item) for item in value]
    return value


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, path, hint)
    if origin is typing.Literal:
        if not any(type(value) is type(argument) and value == argument for argument in arguments):
            raise ConfigError(f"{path} must be one of {', '.join(map(repr, arguments))}, not {_show(value)}")
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, path)
    if origin in (tuple, list, collections.abc.Sequence):
        return _convert_sequence(origin, arguments, value, path, hint)
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must be {_name(hint)}, not {_show(value)}")
        return {_convert(arguments[0], k, path): _convert(arguments[1], v, f"{path}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{path} must be {_name(hint)}, not {_show(value)}")
    return value


def _convert_union(arguments, value, path, hint):
    if value is None and type(None) in arguments:
        return None
    options = [argument for argument in arguments if argument is not type(None)]
    if all(map(dataclasses.is_dataclass, options)) and not dataclasses.is_dataclass(value):
        return _convert(_meant(options, value, path), value, path)
    for option in options:
        try:
            return _convert(option, value, path)
        except ConfigError:
            continue
    raise ConfigError(f"{path} must be {_name(hint)}, not {_show(value)}")


def _meant(options: list[type], value: Any, path: str) -> type:
    """Which of several dataclasses a group of settings means: the one of its `kind`, or that knows most of it."""
    given = value if isinstance(value, Mapping) else {}
    by_kind = {kind: option for option in options for kind in _kinds(option)}
    if by_kind and "kind" in given:
        if given["kind"] not in by_kind:
            raise ConfigError(f"{path}.kind {given['kind']!r} is not one{nearest(str(given['kind']), by_kind)}")
        return by_kind[given["kind"]]
    known = [{field.name for field in dataclasses.fields(option)} for option in options]
    return options[max(range(len(options)), key=lambda index: (len(known[index] & set(given)), -index))]


def _kinds(cls: type) -> tuple[str, ...]:
    """The values of a dataclass's field `kind`, where it has one that says what it is."""
    hint = typing.get_type_hints(cls).get("kind")
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _convert_sequence(origin, arguments, value, path, hint):
    if isinstance(value, str) or not isinstance(value, collections.abc.Sequence):
        raise ConfigError(f"{path} must be {_name(hint)}, not {_show(value)}")
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ConfigError(f"{path} must have {len(arguments)} values, not {len(value)}")
        return tuple(_convert(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))
    item = arguments[0] if arguments else Any
    converted = [_convert(item, v, f"{path}[{i}]") for i, v in enumerate(value)]
    return converted if origin is list else tuple(converted)


def _name(hint: Any) -> str:
    """A type in the words of someone who writes a config file."""
    plain = {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None"}
    if hint in plain:
        return plain[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_name, arguments))
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values"
    if origin in (tuple, list, collections.abc.Sequence):
        return f"a list (each {_name(arguments[0])})"
    if origin in (dict, collections.abc.Mapping):
        return "a group of settings"
    if dataclasses.is_dataclass(hint):
        return f"a group of settings ({hint.__name__})"
    return getattr(hint, "__name__", str(hint))


def _show(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
