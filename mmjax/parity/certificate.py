"""The certificate: every output of every call, every gradient, and the way back, against the reference."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Shaped
from mmjax.core.errors import InputError
from mmjax.interop.calls.caller import Caller, compiled, find_method, plain
from mmjax.interop.configs import same_meaning
from mmjax.interop.engine import Pretrained, export, load
from mmjax.interop.layout import lay_out
from mmjax.interop.tensors import open_file, open_folder
from mmjax.parallel.sharding import use_mesh
from mmjax.parity.cached import cached_logits, generates
from mmjax.parity.folder import GRADIENTS, Call, read_oracle

TOLERANCE = 2e-5  # of the largest number of the reference's output
GRADIENT_TOLERANCE = 1e-4
# A gradient that is nothing but rounding (a key's bias) is measured against the largest of all gradients instead, so
# that it may differ by two float32 roundings of that one: a single one would be beyond a floor of 1e-3.
_SMALLEST_GRADIENT = 2 * 2.0**-23 / GRADIENT_TOLERANCE
# Outputs without which a certificate is not one: what a name ends in, numbers left out.
ESSENTIAL = (
    *("logits", "logits_per_image", "logits_per_text", "last_hidden_state", "sequences", "sequences_scores"),
    *("embeds", "features", "pooler_output"),
)


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
        return not self.essential if self.relative is None else self.relative <= self.tolerance


@dataclasses.dataclass
class Certificate:
    """All rows, what we computed under the reference's names, and the folder's own description."""

    family: str
    reference: str
    results: list[Result]
    computed: dict[str, Shaped[np.ndarray, "..."]]

    @property
    def passed(self) -> bool:
        """Whether every row is within tolerance, nothing essential is missing, and something essential was compared."""
        proven = any(result.essential and result.relative is not None for result in self.results)
        return proven and all(result.passed for result in self.results)


def certify(
    folder: str | Path,
    *,
    gradients: bool = False,
    roundtrip: bool = False,
    cached: bool = False,
    mesh: Mesh | None = None,
) -> Certificate:
    """Loads a parity folder's checkpoint, makes the reference's calls in float32 and compares.

    gradients: those of `grads.safetensors` too. roundtrip: export again; every tensor must come back bit for bit.
    cached: of a model that writes, the logits of half a row again, token by token through the cache.
    mesh: parameters and computation are laid out on it.

    Raises:
      InputError, CheckpointError: the folder is not a parity folder, or its checkpoint cannot be loaded.
    """
    folder = Path(folder)
    oracle = read_oracle(folder)
    if gradients and not (folder / GRADIENTS).exists():
        raise InputError(f"{folder} has no {GRADIENTS}; make the folder with gradients, or leave --grads out")
    if gradients and oracle.grads_of is None:
        raise InputError(f"{folder / 'oracle.json'} has no grads_of, which names the output that gradients are of")
    with jax.default_matmul_precision("highest"), use_mesh(mesh):
        pretrained = load(folder, mesh=mesh)
        caller = Caller(pretrained)
        certificate = Certificate(pretrained.family.model_type, oracle.reference, [], {})
        rows: list[Result] = []
        for made in oracle.calls:
            if gradients and made.name == oracle.grads_of[0]:
                ours, slopes = _differentiate(pretrained, made, oracle.grads_of[1])
                rows = _compare_gradients(pretrained, folder, slopes)
            else:
                ours = _make(caller, made)
            for name, reference in made.outputs.items():
                result, value = _compare(made, name, _named(made, ours, name), reference)
                certificate.results.append(result)
                if value is not None:
                    certificate.computed[f"{made.name}/{name}"] = value
        certificate.results += rows
        if cached and generates(pretrained):
            certificate.results += compare_cached(caller, oracle.calls)
    if roundtrip:
        certificate.results += _compare_roundtrip(pretrained, folder)
    return certificate


def _make(caller: Caller, made: Call) -> dict[str, Any]:
    if made.fn == "generate":
        written = caller.generate(made.arguments, made.kw)
        scores = {} if written.scores is None else {"sequences_scores": written.scores}
        return {"sequences": written.sequences, **scores}
    return caller.call(made.fn, made.arguments, made.kw)


def _named(made: Call, ours: Mapping[str, Any], name: str) -> Any:
    """Our output by the reference's name, or None."""
    if name in ours:
        return ours[name]
    if len(made.outputs) == 1 and "" in ours:
        return ours[""]  # a method that returns one bare array has no name for it; a file of arrays must have one
    return ours.get(f"pooler_output.{name}") if name.isdigit() else None  # one of several bare arrays


def _differentiate(pretrained: Pretrained, made: Call, output: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a call gives, and the gradient of the mean square of one of its outputs by parameter."""
    method, reference = find_method(pretrained, made.fn), made.outputs[output]

    def program(finish, **more):
        return compiled(pretrained, method, made.arguments, made.kw, finish, **more)(pretrained.parameters)

    choice = _choice(program, made, output, reference)

    def loss(outputs):
        ours = plain(outputs)
        value = _named(made, ours, output)
        return jnp.mean(jnp.square(value if choice is None else value[choice])), ours

    slopes, ours = program(loss, transform=functools.partial(jax.grad, has_aux=True))
    return ours, slopes


def compare_cached(caller: Caller, calls: Sequence[Call]) -> list[Result]:
    """The logits of half of each row, through the cache, of the first call that gives those of whole rows."""
    for made in calls:
        if made.fn == "forward" and "logits" in made.outputs:
            logits, places = cached_logits(caller, made.arguments, made.kw)
            reference, rows = made.outputs["logits"], np.arange(len(places))[:, None]
            there, inside = places < reference.shape[1], np.minimum(places, reference.shape[1] - 1)
            if "attention_mask" in made.arguments:
                there &= made.arguments["attention_mask"][rows, inside].astype(bool)
            alone = dataclasses.replace(made, arguments={"attention_mask": there})
            result, _ = _compare(alone, "logits", logits, reference[rows, inside])
            return [dataclasses.replace(result, call=f"{made.name}, cached")]
    return []


def _compare(made: Call, name: str, ours, reference) -> tuple[Result, Any]:
    if ours is None:
        return Result(made.name, name, problem="not produced here"), None
    choices = [np.asarray(choice) for choice in (ours if isinstance(ours, tuple) else (ours,))]
    fitting = [choice for choice in choices if choice.shape == reference.shape]
    if not fitting:
        shapes = " or ".join(str(list(choice.shape)) for choice in choices)
        result = Result(made.name, name, relative=np.inf, largest=np.inf)
        return dataclasses.replace(result, problem=f"has shape {shapes}, not {list(reference.shape)}"), choices[0]
    there = _there(made, reference.shape)
    best = min(fitting, key=lambda choice: _difference(choice, reference, there))
    if not np.issubdtype(reference.dtype, np.floating):
        wrong = float(np.max(best != reference)) if reference.size else 0.0
        return Result(made.name, name, wrong, wrong, float(np.mean(best == reference)), tolerance=0.0), best
    largest = _difference(best, reference, there)
    scale = float(np.abs(reference[there]).max()) if reference[there].size else 0.0
    argmax = None
    if name.split(".")[-1].startswith("logits"):
        argmax = float(np.mean(best.argmax(-1)[there] == reference.argmax(-1)[there]))
    relative = largest / scale if scale else (0.0 if largest == 0 else np.inf)
    compared = float(np.mean(there)) if reference.size else 1.0
    return Result(made.name, name, largest, relative, argmax, compared), best


def _choice(program, made: Call, output: str, reference) -> int | None:
    """Which of several arrays the reference means by an output; None where there is one array only."""
    seen: list[Any] = []
    jax.eval_shape(lambda: program(lambda outputs: seen.append(_named(made, plain(outputs), output))))
    choices = seen[0] if isinstance(seen[0], tuple) else (seen[0],)
    fitting = [number for number, choice in enumerate(choices) if np.shape(choice) == reference.shape]
    if seen[0] is None or not fitting:
        raise InputError(
            f"gradients are of {made.name}/{output} {list(reference.shape)}, which is not produced here in that shape"
        )
    if not isinstance(seen[0], tuple) or len(fitting) == 1:
        return fitting[0] if isinstance(seen[0], tuple) else None
    choices = program(lambda outputs: _named(made, plain(outputs), output))
    return min(fitting, key=lambda number: _difference(np.asarray(choices[number]), reference, ...))


def _there(made: Call, shape: tuple[int, ...]) -> Any:
    """Which rows and positions of an output are no padding."""
    mask = made.arguments.get("attention_mask")
    if mask is None or mask.ndim != 2 or shape[:2] != mask.shape or len(shape) < 3:
        return np.ones(shape[:1], bool)
    return mask.astype(bool)


def _difference(ours, reference, there) -> float:
    difference = np.abs(ours[there].astype(np.float64) - reference[there])
    return float(difference.max()) if difference.size else 0.0


def _compare_gradients(pretrained: Pretrained, folder: Path, ours: Mapping[str, Any]) -> list[Result]:
    layout = lay_out(pretrained.family, pretrained.config, pretrained.origin.spelling)
    references = {name: tensor.read() for name, tensor in open_file(folder / GRADIENTS).items()}
    largest = max(float(np.abs(reference).max(initial=0.0)) for reference in references.values())
    results = [
        Result("gradient", name, relative=np.inf, largest=np.inf, problem="of no tensor of the checkpoint")
        for name in references
        if name not in layout.entries and not any(re.fullmatch(p, name) for p in pretrained.family.all_ignored())
    ]
    for name, entry in layout.entries.items():
        if entry.tied:
            continue
        parts = [np.asarray(ours[p.path] if p.index is None else ours[p.path][p.index]) for p in entry.pieces]
        if name not in references:  # as it should be where the output does not depend on it
            wrong = any(part.any() for part in parts)
            failure = Result("gradient", name, relative=np.inf, largest=np.inf, problem="not in grads.safetensors")
            results += [failure] if wrong else []
            continue
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
        kept = pretrained.origin.dtypes
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
