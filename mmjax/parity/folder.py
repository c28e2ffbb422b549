"""What a parity folder holds beside its checkpoint: calls of the reference, their arguments, outputs and gradients.

oracle.json: {"reference": ..., "class": ..., "calls": [{"name", "fn", "kw"}, ...], "grads_of": "CALL/OUTPUT"}
inputs.npz: arrays CALL/ARGUMENT; outputs.npz: arrays CALL/OUTPUT
grads.safetensors: the gradient of mean(OUTPUT ** 2) by the checkpoint's own tensor names
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.arrays import Shaped
from mmjax.core.errors import InputError

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]
GRADIENTS = "grads.safetensors"


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the reference: `fn` with array arguments and other keyword arguments, and what came out."""

    name: str
    fn: str
    kw: Mapping[str, Any]
    arguments: Arrays
    outputs: Arrays


@dataclasses.dataclass(frozen=True)
class Oracle:
    """All calls of a folder. `grads_of`: the call and the output that the gradients are of, or None."""

    reference: str
    calls: tuple[Call, ...]
    grads_of: tuple[str, str] | None


def read_oracle(folder: Path) -> Oracle:
    """The calls of a parity folder.

    Raises:
      InputError: a file is missing or not what it should be; it is named.
    """
    outer = _read_json(folder / "oracle.json")
    inputs, outputs = _read_arrays(folder / "inputs.npz"), _read_arrays(folder / "outputs.npz")
    listed = outer.get("calls")
    if not isinstance(listed, list) or not listed or not all(isinstance(call, dict) for call in listed):
        raise InputError(f"{folder / 'oracle.json'} must have a list of calls, each with a name, fn and kw")
    calls = []
    for call in listed:
        if not isinstance(call.get("name"), str):
            raise InputError(f"a call in {folder / 'oracle.json'} has no name: {call}")
        name = call["name"]
        found = _of_call(name, outputs)
        if not found:
            raise InputError(f"{folder / 'outputs.npz'} has no output of the call {name!r} (arrays {name}/OUTPUT)")
        calls.append(Call(name, call.get("fn") or "forward", dict(call.get("kw") or {}), _of_call(name, inputs), found))
    return Oracle(
        " ".join(str(outer[key]) for key in ("reference", "class") if key in outer),
        tuple(calls),
        _grads_of(folder, outer, calls),
    )


def _grads_of(folder: Path, outer: Mapping[str, Any], calls: list[Call]) -> tuple[str, str] | None:
    """`CALL/OUTPUT`, or an output's name alone: of the first call that has it, or of the call that says so."""
    for call in outer["calls"]:
        if call.get("grads_of"):
            return call["name"], str(call["grads_of"]).removeprefix(f"{call['name']}/")
    named = outer.get("grads_of")
    if not named:
        return None
    for call in calls:
        for output in call.outputs:
            if named in (output, f"{call.name}/{output}"):
                return call.name, output
    raise InputError(f"{folder / 'oracle.json'} has grads_of={named!r}, which is no output of outputs.npz")


def _of_call(name: str, arrays: Arrays) -> dict[str, Any]:
    return {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing; a parity folder holds a checkpoint, oracle.json, inputs.npz and outputs.npz "
            "(third_party/README.md says how to make one)"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(read, dict):
        raise InputError(f"{path} must hold an object, not {type(read).__name__}")
    return read


def _read_arrays(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except FileNotFoundError:
        raise InputError(f"{path} is missing; it holds the reference's arrays") from None
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as arrays: {error}") from None
