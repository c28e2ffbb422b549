"""Models as StableHLO programs of fixed shapes (see `programs`), with a loader that needs jax alone.

OUT/NAME.stablehlo        a program by `jax.export`, serialized: for the platforms asked for, run by any JAX
OUT/parameters.safetensors  the parameters by path; every program takes those that it names, first
OUT/signature.json        shapes and types of what each program takes and gives
OUT/load.py               an example: greedy tokens from these files, or what an encoder gives, without mmjax
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from mmjax.core.errors import InputError
from mmjax.core.folders import check_new, new_folder
from mmjax.interop.engine import Pretrained
from mmjax.interop.programs import Program, Shapes, make_programs
from mmjax.interop.tensors import write_folder
from mmjax.ops.attention import default_backend

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_stablehlo(
    pretrained: Pretrained,
    folder: str | Path,
    *,
    platforms: Sequence[str] = ("cpu",),
    shapes: Shapes = Shapes(),  # noqa: B008 (frozen)
) -> list[str]:
    """Writes the programs of a model, its parameters and the example; returns the programs' names.

    Raises:
      InputError: an unknown platform, a model that has no such programs, or a folder that is not empty.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise InputError(f"platforms must be of {', '.join(PLATFORMS)}, not {', '.join(unknown) or 'none'}")
    check_new(folder)
    programs = make_programs(pretrained, shapes)
    kept = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in pretrained.parameters.items()}
    signature: dict[str, Any] = {"shapes": dataclasses.asdict(shapes), "platforms": list(platforms), "programs": {}}
    with new_folder(folder) as made:
        for name, program in programs.items():
            used = _used(program, kept)
            with default_backend("xla"):  # a flash kernel is of one platform
                exported = jax.export.export(jax.jit(program.function), platforms=platforms)(used, program.inputs)
            (made / f"{name}.stablehlo").write_bytes(exported.serialize())
            outputs = jax.eval_shape(program.function, used, program.inputs)
            signature["programs"][name] = {
                "parameters": sorted(used),
                "inputs": {key: _described(value) for key, value in program.inputs.items()},
                "outputs": {key: _described(value) for key, value in outputs.items()},
            }
        write_folder(
            made,
            {path: leaf.shape for path, leaf in kept.items()},
            dict.fromkeys(kept, np.dtype(np.float32)),
            lambda path: np.asarray(pretrained.parameters[path]),
            2**62,
        )
        (made / "model.safetensors").rename(made / "parameters.safetensors")
        (made / "load.py").write_text(resources.files("mmjax.interop").joinpath("stablehlo_loader.py.txt").read_text())
        (made / "signature.json").write_text(json.dumps(signature, indent=2) + "\n")
    return list(programs)


def _used(program: Program, parameters) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters that a program reads; what nothing depends on need not be loaded for it."""
    traced = jax.make_jaxpr(program.function)(parameters, program.inputs)
    read = {variable for equation in traced.eqns for variable in equation.invars if not hasattr(variable, "val")}
    read |= {variable for variable in traced.jaxpr.outvars if not hasattr(variable, "val")}
    return {
        path: leaf
        for (path, leaf), variable in zip(sorted(parameters.items()), traced.jaxpr.invars, strict=False)
        if variable in read
    }


def _described(value) -> dict[str, Any]:
    return {"shape": list(value.shape), "dtype": str(value.dtype)}
