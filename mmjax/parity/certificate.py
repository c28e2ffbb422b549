"""The certificate: every output of every call, every gradient, and the way back, against the reference."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Shaped
from mmjax.core.errors import InputError
from mmjax.interop.configs import same_meaning
from mmjax.interop.engine import Pretrained, export, inspect, load
from mmjax.interop.layout import lay_out
from mmjax.interop.tensors import open_file, open_folder
from mmjax.parallel.sharding import use_mesh
from mmjax.parity.adapters import Either
from mmjax.parity.folder import GRADIENTS, Call, Oracle, read_oracle
from mmjax.parity.greedy import generation_settings, greedy
from mmjax.parity.kinds import ADAPTERS

TOLERANCE = 2e-5  # of the largest number of the reference's output
GRADIENT_TOLERANCE = 1e-4
# A gradient that is nothing but rounding (a key's bias) is measured against the largest of all gradients instead.
_SMALLEST_GRADIENT = 1e-3
# Outputs without which a certificate is not one: what a name ends in, numbers left out.
ESSENTIAL = ("logits", "logits_per_image", "logits_per_text", "last_hidden_state", "sequences", "embeds")


@dataclasses.dataclass(frozen=True)
class Result:
    """One output. `largest` is the largest difference, `relative` the same in units of the reference's largest number.

    argmax: share of the places at which the largest entry is the same (logits only).
    compared: share of the output that is compared; the rest is padding.
    problem: why nothing could be compared.
    """

    call: str
    output: str
    largest: float | None = None
    relative: float | None = None
    argmax: float | None = None
    compared: float = 1.0
    problem: str | None = None
    tolerance: float = TOLERANCE

    @property
    def essential(self) -> bool:
        """Whether there is no certificate without this output."""
        words = [word for word in self.output.split(".") if not word.isdigit()]
        return bool(words) and words[-1].endswith(ESSENTIAL)

    @property
    def passed(self) -> bool:
        """Whether it is within tolerance; what is not essential may be missing, but not wrong."""
        if self.problem is not None:
            return not self.essential
        return self.relative is not None and self.relative <= self.tolerance


@dataclasses.dataclass
class Certificate:
    """All rows, what we computed under the reference's names, and the folder's own description."""

    family: str
    reference: str
    results: list[Result]
    computed: dict[str, Shaped[np.ndarray, "..."]]

    @property
    def passed(self) -> bool:
        """Whether every row is within tolerance and nothing essential is missing."""
        return all(result.passed for result in self.results)


def certify(
    folder: str | Path, *, gradients: bool = False, roundtrip: bool = False, mesh: Mesh | None = None
) -> Certificate:
    """Loads a parity folder's checkpoint, makes the reference's calls in float32 and compares.

    gradients: those of `grads.safetensors` too. roundtrip: export again; every tensor must come back bit for bit.
    mesh: parameters and computation are laid out on it.

    Raises:
      InputError, CheckpointError: the folder is not a parity folder, or its checkpoint cannot be loaded.
    """
    folder = Path(folder)
    oracle = read_oracle(folder)
    if gradients and not (folder / GRADIENTS).exists():
        raise InputError(f"{folder} has no {GRADIENTS}; make the folder with gradients, or leave --grads out")
    with jax.default_matmul_precision("highest"), use_mesh(mesh):
        pretrained = load(folder, mesh=mesh)
        certificate = Certificate(pretrained.family.model_type, oracle.reference, [], {})
        for call in oracle.calls:
            for result, value in _run(pretrained, folder, call):
                certificate.results.append(result)
                if value is not None:
                    certificate.computed[f"{call.name}/{result.output}"] = value
        if gradients:
            certificate.results += _compare_gradients(pretrained, folder, oracle)
    if roundtrip:
        certificate.results += _compare_roundtrip(pretrained, folder)
    return certificate


def _run(pretrained: Pretrained, folder: Path, call: Call) -> Iterator[tuple[Result, Any]]:
    adapter = ADAPTERS.get(type(pretrained.config))
    if adapter is None:
        raise InputError(f"the family {pretrained.family.model_type} can be loaded, but its calls are not known here")
    arguments = {name: jnp.asarray(value) for name, value in call.arguments.items()}
    if call.fn == "generate" and adapter.prompt is not None:
        ours = {"sequences": _generate(pretrained, adapter, folder, arguments, call)}
    elif call.fn in adapter.methods:
        method = adapter.methods[call.fn]
        ours = jax.jit(lambda parameters, arguments: _plain(method(pretrained, parameters, arguments, call.kw)))(
            pretrained.parameters, arguments
        )
    else:
        known = [*adapter.methods, *(["generate"] if adapter.prompt else [])]
        raise InputError(f"the call {call.name!r} is of {call.fn}; for this family known are: {', '.join(known)}")
    for name, reference in call.outputs.items():
        # A method that returns one bare array has no name for it; a file of arrays must have one.
        found = ours.get(name, ours.get("") if len(call.outputs) == 1 else None)
        yield _compare(call, name, found, reference)


def _plain(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as a tree of arrays: several choices as a tuple."""
    return {name: value.choices if isinstance(value, Either) else value for name, value in outputs.items()}


def _generate(pretrained, adapter, folder, arguments, call):
    prompt = jax.jit(lambda parameters, arguments: adapter.prompt(pretrained, parameters, arguments, call.kw))(
        pretrained.parameters, arguments
    )
    settings = generation_settings(folder, call.kw)
    return greedy(adapter.writer(pretrained, prompt), pretrained.parameters, prompt, settings)


def _compare(call: Call, name: str, ours, reference) -> tuple[Result, Any]:
    if ours is None:
        return Result(call.name, name, problem="not produced here"), None
    choices = [np.asarray(choice) for choice in (ours if isinstance(ours, tuple) else (ours,))]
    fitting = [choice for choice in choices if choice.shape == reference.shape]
    if not fitting:
        shapes = " or ".join(str(list(choice.shape)) for choice in choices)
        result = Result(call.name, name, relative=np.inf, largest=np.inf)
        return dataclasses.replace(result, problem=f"has shape {shapes}, not {list(reference.shape)}"), choices[0]
    there = _there(call, reference.shape)
    best = min(fitting, key=lambda choice: _difference(choice, reference, there))
    if not np.issubdtype(reference.dtype, np.floating):
        wrong = float(np.max(best != reference)) if reference.size else 0.0
        return Result(call.name, name, wrong, wrong, float(np.mean(best == reference)), tolerance=0.0), best
    largest = _difference(best, reference, there)
    scale = float(np.abs(reference[there]).max()) if reference[there].size else 0.0
    argmax = None
    if name.split(".")[-1].startswith("logits"):
        argmax = float(np.mean(best.argmax(-1)[there] == reference.argmax(-1)[there]))
    relative = largest / scale if scale else (0.0 if largest == 0 else np.inf)
    return Result(call.name, name, largest, relative, argmax, float(np.mean(there))), best


def _there(call: Call, shape: tuple[int, ...]) -> Any:
    """Which rows and positions of an output are no padding."""
    mask = call.arguments.get("attention_mask")
    if mask is None or mask.ndim != 2 or shape[:2] != mask.shape or len(shape) < 3:
        return np.ones(shape[:1] or (1,), bool) if shape else ...
    return mask.astype(bool)


def _difference(ours, reference, there) -> float:
    difference = np.abs(ours[there].astype(np.float64) - reference[there])
    return float(difference.max()) if difference.size else 0.0


def _compare_gradients(pretrained: Pretrained, folder: Path, oracle: Oracle) -> list[Result]:
    if oracle.grads_of is None:
        raise InputError(f"{folder / 'oracle.json'} has no grads_of, which names the output that gradients are of")
    name, output = oracle.grads_of
    call = next(call for call in oracle.calls if call.name == name)
    method = ADAPTERS[type(pretrained.config)].methods[call.fn]
    arguments = {name: jnp.asarray(value) for name, value in call.arguments.items()}

    def loss(parameters):
        value = _plain(method(pretrained, parameters, arguments, call.kw))[output]
        value = value[0] if isinstance(value, tuple) else value
        return jnp.mean(jnp.square(value))

    ours = jax.jit(jax.grad(loss))(pretrained.parameters)
    layout = lay_out(pretrained.family, pretrained.config, pretrained.origin.spelling)
    references = {name: tensor.read() for name, tensor in open_file(folder / GRADIENTS).items()}
    largest = max(float(np.abs(reference).max(initial=0.0)) for reference in references.values())
    results = []
    for name, entry in layout.entries.items():
        if entry.tied:
            continue
        if name not in references:
            results.append(Result("gradient", name, problem="not in grads.safetensors"))
            continue
        parts = [np.asarray(ours[p.path] if p.index is None else ours[p.path][p.index]) for p in entry.pieces]
        difference = float(np.abs(entry.transform.to_outside(parts) - references[name]).max(initial=0.0))
        scale = max(float(np.abs(references[name]).max(initial=0.0)), _SMALLEST_GRADIENT * largest)
        relative = difference / scale if scale else difference
        results.append(Result("gradient", name, difference, relative, tolerance=GRADIENT_TOLERANCE))
    return results


def _compare_roundtrip(pretrained: Pretrained, folder: Path) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="mmjax-roundtrip-") as temporary:
        back = Path(temporary) / "back"
        export(pretrained, back, dtype=None)
        before, after = open_folder(folder), open_folder(back)
        kept = inspect(folder).tensors
        lines = [f"{name} is missing" for name in before if name not in after and name in kept]
        lines += [f"{name} is new" for name in after if name not in before]
        for name in before.keys() & after.keys():
            pair = [tensors[name].read() for tensors in (before, after)]
            if pair[0].dtype != pair[1].dtype or pair[0].tobytes() != pair[1].tobytes():
                lines.append(f"{name} differs")
        configs = [json.loads((path / "config.json").read_text()) for path in (folder, back)]
        meaning = same_meaning(pretrained.family, *configs)
    problem = f"{len(lines)} tensors: {'; '.join(sorted(lines)[:5])}" if lines else None
    rows = [Result("round trip", f"{len(before)} tensors", relative=np.inf if lines else 0.0, largest=0.0)]
    rows[0] = dataclasses.replace(rows[0], problem=problem, tolerance=0.0)
    rows.append(Result("round trip", "config.json", largest=0.0, relative=0.0 if meaning else np.inf, tolerance=0.0))
    return rows
