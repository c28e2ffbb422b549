"""Config files -> the frozen configuration of a run: `FILE.py[:ARG]` with `get_config(arg)`, and overrides."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from mmjax.core.config import build, nearest, to_tree
from mmjax.core.errors import ConfigError
from mmjax.training.run import RunConfig


def add_config_argument(parser: argparse.ArgumentParser, *, required: bool, default: str | None = None) -> None:
    """Adds `--config FILE[:ARG]`."""
    parser.add_argument(
        "--config",
        required=required,
        default=default,
        metavar="FILE[:ARG]",
        help="config file with get_config(arg), e.g. configs/flamingo_digits.py, or its name; "
        "--config.KEY=VALUE changes a setting",
    )


def load_config(reference: str, overrides: Sequence[tuple[str, str]]) -> RunConfig:
    """The configuration of `FILE[:ARG]` with the overrides applied and every default spelled out.

    Raises:
      ConfigError: no such file, an error in it, an unknown key, a wrong type, or a missing value.
    """
    tree = to_tree(build(RunConfig, _read(reference)).resolved())
    for key, text in overrides:
        if isinstance(_override(tree, key, text), dict):  # its own defaults can be overridden next
            tree = to_tree(build(RunConfig, tree).resolved())
    return build(RunConfig, tree).resolved()


def config_chips(reference: str) -> tuple[str, ...]:
    """The TPU slices that a config file is meant for, by its table CHIPS; of `FILE:ARG`, the one that ARG names."""
    name, _, argument = reference.partition(":")
    with _module(_find(name)) as module:
        chips = tuple(getattr(module, "CHIPS", ()))
    return (argument,) if argument in chips else chips


def _read(reference: str) -> Mapping[str, Any]:
    name, _, argument = reference.partition(":")
    path = _find(name)
    with _module(path) as module:
        if not hasattr(module, "get_config"):
            raise ConfigError(f"{path} has no function get_config(arg)")
        config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"get_config of {path} must return an ml_collections.ConfigDict, not {type(config).__name__}")
    return config.to_dict()


@contextlib.contextmanager
def _module(path: Path) -> Iterator[types.ModuleType]:
    """A config file as a module, which may import from its folder within the block."""
    spec = importlib.util.spec_from_file_location(f"mmjax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.parent))  # so that a file can import configs.common
    try:
        spec.loader.exec_module(module)
        yield module
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)


def _find(name: str) -> Path:
    ours = Path(__file__).parents[2] / "configs"
    for path in (Path(name), Path("configs") / f"{name}.py", ours / f"{name}.py"):
        if path.is_file():
            return path.absolute()
    known = sorted(path.stem for path in ours.glob("*.py") if path.stem != "common")
    raise ConfigError(f"there is no config file {name}{nearest(Path(name).stem, known)}")


def _override(tree: dict[str, Any], key: str, text: str) -> Any:
    """Sets what `key` names, and returns what it was set to."""
    *parents, last = key.split(".")
    node: Any = tree
    path = "config"
    for part in parents:
        node = _child(node, part, path)
        path = f"{path}.{part}"
    if isinstance(node, list):
        place, old = _index(node, last, path), _child(node, last, path)
    elif not isinstance(node, dict):
        raise ConfigError(f"{path} is a single value; it has no {last}")
    elif last in node:
        place, old = last, node[last]
    elif path.endswith((".special", ".weights")):
        place, old = last, None  # any name may stand here
    else:
        raise ConfigError(f"{path}.{last} is not a setting{nearest(last, node)}")
    node[place] = _value(text, old)
    return node[place]


def _child(node: Any, part: str, path: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, path)]
    if not isinstance(node, dict):
        raise ConfigError(f"{path} is a single value; it has no {part}")
    if part not in node:
        raise ConfigError(f"{path}.{part} is not a setting{nearest(part, node)}")
    return node[part]


def _index(node: list, part: str, path: str) -> int:
    if not node:
        raise ConfigError(f"{path} is an empty list; give all of it: {path}=[...]")
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"{path} is a list of {len(node)}: name an item by 0 to {len(node) - 1}, not {part}")
    return int(part)


def _value(text: str, old: Any) -> Any:
    """The text as Python would read it where it does; `a,b` is a list of words where a list stood before."""
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, int) and not isinstance(old, bool) and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e3 is a fine way to write a number of steps
    if isinstance(value, tuple):
        return list(value)
    if isinstance(old, list) and not isinstance(value, list):
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else [value]
    if isinstance(old, bool) and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value
