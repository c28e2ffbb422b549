"""The parity certificate: an outside checkpoint, run here, against what its reference computed.

mmjax parity DIR                     every output of every call, in float32; exit code 0 if all are within tolerance
mmjax parity DIR --grads --roundtrip gradients too, and exported again every tensor bit for bit
mmjax parity DIR --cached            half of a row once more, token by token through the cache
mmjax parity DIR --save OUT.npz      writes what was computed, under the reference's names

DIR holds a checkpoint in the layout of transformers, inputs.npz, outputs.npz and oracle.json; third_party/README.md
says how to make one. DIR may also be the name of a model on a hub that holds these files.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from mmjax.core.errors import InputError
from mmjax.interop.hub import find_source
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parity.certificate import Certificate, certify

_SHOWN = 5  # gradients that fail, of what may be hundreds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax parity`."""
    parser.add_argument("path", metavar="DIR", help="a parity folder")
    parser.add_argument("--grads", action="store_true", help="compare the gradients of grads.safetensors too")
    parser.add_argument(
        "--roundtrip", action="store_true", help="export again; every tensor must come back bit for bit"
    )
    parser.add_argument(
        "--cached", action="store_true", help="of a model that writes, logits token by token through the cache too"
    )
    parser.add_argument("--save", metavar="FILE", help="write what was computed, as .npz")
    parser.add_argument(
        "--mesh", default="", metavar="AXES", help="lay parameters out over devices, such as fsdp=2,tensor=2"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Compares; returns 0 if everything is within tolerance, else 1."""
    mesh = make_mesh(_mesh(options.mesh)) if options.mesh else None
    certificate = certify(
        find_source(options.path),
        gradients=options.grads,
        roundtrip=options.roundtrip,
        cached=options.cached,
        mesh=mesh,
    )
    if options.save:
        _save(Path(options.save), certificate.computed)
    print(json.dumps(_record(certificate)) if options.json else _table(certificate))
    return 0 if certificate.passed else 1


def _mesh(text: str) -> MeshConfig:
    axes = {field.name for field in dataclasses.fields(MeshConfig)}
    sizes = {}
    for pair in text.split(","):
        name, _, size = pair.partition("=")
        if name not in axes or not size.lstrip("-").isdigit():
            raise InputError(
                f"--mesh must be like fsdp=2,tensor=2 with axes of {', '.join(sorted(axes))}, not {text!r}"
            )
        sizes[name] = int(size)
    return MeshConfig(**({"data": 1} | sizes))


def _save(path: Path, arrays) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, path)


def _record(certificate: Certificate) -> dict:
    rows = [dataclasses.asdict(result) | {"passed": result.passed} for result in certificate.results]
    return {
        "family": certificate.family,
        "reference": certificate.reference,
        "passed": certificate.passed,
        "rows": rows,
    }


def _table(certificate: Certificate) -> str:
    lines = [f"family: {certificate.family}", f"reference: {certificate.reference}"]
    shown = _summed(certificate.results)
    widths = [max(len(getattr(result, name)) for result in shown) for name in ("call", "output")]
    lines.append(f"{'call'.ljust(widths[0])}  {'output'.ljust(widths[1])}   max abs  relative  argmax")
    for result in shown:
        if result.problem is not None:
            figures = f"-  {result.problem}"
        else:
            same = "" if result.argmax is None else f"{result.argmax:7.2%}"
            figures = f"{result.largest:8.1e}  {result.relative:8.1e}  {same}"
        if result.compared < 1:
            figures += f"  (where there is text: {result.compared:.0%})"
        verdict = "" if result.passed and result.problem is None else "  skipped" if result.passed else "  FAILED"
        lines.append(f"{result.call.ljust(widths[0])}  {result.output.ljust(widths[1])}  {figures}{verdict}")
    absent = [
        f"{result.call}/{result.output}" for result in certificate.results if result.problem == "not produced here"
    ]
    if absent:
        lines.append(f"not produced here: {', '.join(absent)}")
    failed = sum(not result.passed for result in certificate.results)
    lines.append("passed: all within tolerance" if certificate.passed else f"failed: {failed} rows")
    return "\n".join(lines)


def _summed(results):
    """Of the gradients the worst few that fail, and one row for all of them; every other row is shown."""
    gradients = [result for result in results if result.call == "gradient" and result.problem is None]
    rest = [result for result in results if result not in gradients]
    if not gradients:
        return rest
    gradients.sort(key=lambda result: result.relative, reverse=True)
    failed = [result for result in gradients if not result.passed]
    return [
        *rest,
        *failed[1:_SHOWN],
        dataclasses.replace(gradients[0], output=f"worst of {len(gradients)}: {gradients[0].output}"),
    ]
