"""The certificates of all families in one table: writes docs/parity.md.

    .venv/bin/python -m benchmarks.parity_table [--open-flamingo DIR] [--only FAMILY ...]

Makes small random models of every family with the reference implementations (third_party/README.md says what has to be
installed), runs them here and compares: outputs, gradients, generated tokens, the way back. OpenFlamingo's are taken
from DIR, which holds one parity folder for each variant; to write their checkpoints from our config alone and open them
again, its packages must be installed. With --only the other rows stay as they are in the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import transformers

from mmjax.interop.engine import export, load
from mmjax.interop.families import FAMILIES
from mmjax.parity.certificate import GRADIENT_TOLERANCE, TOLERANCE, Result, certify
from mmjax.parity.folder import read_oracle
from third_party import oracles
from third_party.oracles import hugging_face, open_flamingo
from third_party.oracles.folders import MODULES, run
from third_party.oracles.variants import Call, Variant

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "parity.md"

# Configs as published that tests/interop reads, writes and counts at full size; a test keeps this list and those alike.
SIZES_CHECKED: Mapping[str, Sequence[str]] = {
    "bert": ("bert-base-uncased",),
    "blip-2": ("blip2-opt-2.7b",),
    "clip": ("clip-vit-base-patch32", "clip-vit-large-patch14"),
    "clip_vision_model": ("CLIP-L/14-336",),
    "convnext": ("convnext-tiny-224",),
    "dinov2": ("DINOv2-B/14", "DINOv2-g/14", "dinov2-base"),
    "dinov2_with_registers": ("DINOv2-L/14-registers",),
    "gemma": ("gemma-2b",),
    "gemma2": ("gemma-2-2b", "gemma-2-27b"),
    "gemma3": ("gemma-3-4b-it",),
    "gemma3_text": ("gemma-3-1b", "gemma-3-27b"),
    "gpt2": ("gpt2",),
    "gpt_neox": ("pythia-1.4b", "gpt-neox-20b"),
    "idefics": ("idefics-9b",),
    "idefics3": ("Idefics3-8B-Llama3", "SmolVLM-256M-Instruct", "SmolVLM-500M-Instruct", "SmolVLM-Instruct"),
    "instructblip": ("instructblip-vicuna-7b",),
    "llama": ("llama-3.1-8b", "llama-3.2-1b"),
    "llava": ("llava-1.5-7b",),
    "llava_next": ("llava-v1.6-vicuna-7b", "llava-v1.6-mistral-7b"),
    "mistral": ("mistral-7b", "mistral-7b-v0.3"),
    "mllama": ("Llama-3.2-11B-Vision", "Llama-3.2-11B-Vision-Instruct"),
    "mpt": ("mpt-7b",),
    "open_flamingo": ("OpenFlamingo-9B-vitl-mpt7b",),
    "opt": ("opt-125m",),
    "paligemma": ("paligemma-3b-pt-224", "paligemma2-3b-pt-224"),
    "qwen2": ("qwen2-0.5b",),
    "qwen2_5_vl": ("Qwen2.5-VL-3B-Instruct", "Qwen2.5-VL-7B-Instruct"),
    "qwen3": ("qwen3-0.6b",),
    "siglip": ("siglip-base-patch16-224", "siglip-so400m-patch14-384"),
    "siglip_vision_model": ("So400m/14-384",),
    "smolvlm": ("SmolVLM2-500M-Video-Instruct",),
    "vision-encoder-decoder": ("vit-gpt2-image-captioning",),
    "vit": ("B/16", "vit-base-patch16-224"),
}

HEAD = """# Parity with the reference implementations

Written by `.venv/bin/python -m benchmarks.parity_table`; do not edit. Reference: {references}; here: jax {jax} on
{backend}, float32 with matrix products at the highest precision, compiled with few optimisations.

For each family, small random models are made by the reference implementation, every parameter away from its start, and
run there and here on the same inputs: without padding, padded on either side, with several pictures in a row and with
none, and where the family generates, greedily. `python -m third_party.oracles --list` names the models.

- **import**: the reference's checkpoint is read, and all that the reference returns (but caches and attention weights)
  is computed here too, within the tolerance.
- **export**: what was imported is written again, every tensor bit for bit the same and config.json of the same meaning;
  and a checkpoint written from our config and parameters alone opens in the reference's class, no tensor missing or
  left over, and gives the same outputs bit for bit.
- **outputs**: largest difference of any output, hidden states included, as a share of that output's largest number.
  Tolerance: {tolerance:.0e}. Padding is left out, where outputs mean nothing.
- **gradients**: the same of the gradient of every parameter. Tolerance: {gradients:.0e}. A gradient that is nothing but
  rounding (of a key's bias) may differ by two float32 roundings of the largest gradient.
- **greedy**: whether all generated tokens are equal (-: the family does not generate).
- **full sizes**: published configs that are laid out by shapes alone, parameters counted against what is published
  (`tests/interop/test_published_sizes.py`) or compared with our table of sizes (`tests/interop/test_settings.py`).

"""
COLUMNS = ("family", "reference", "variants", "import", "export", "outputs", "gradients", "greedy", "full sizes")


@dataclasses.dataclass(frozen=True)
class Measured:
    """One variant of a family. `imported`, `exported`: None, or what failed. A figure is None where there is none."""

    family: str
    class_name: str
    imported: str | None = None
    exported: str | None = None
    outputs: float | None = None
    gradients: float | None = None
    greedy: bool | None = None


def measure(variant: Variant, folder: Path, scratch: Path) -> Measured:
    """Certifies a parity folder. What fails is told, not raised."""
    family = json.loads((folder / "config.json").read_text())["model_type"]
    failed = Measured(family, variant.class_name)
    try:
        certificate = certify(folder, gradients=True, roundtrip=True)
    except Exception as error:
        return dataclasses.replace(failed, imported=_told(error), exported="not imported")
    back = [result for result in certificate.results if result.call == "round trip"]
    gradients = [result for result in certificate.results if result.call == "gradient"]
    outputs = [result for result in certificate.results if result not in back and result not in gradients]
    sequences = [result.passed for result in outputs if result.output == "sequences"]
    try:
        exported = _first_wrong(back) or _reopened_differs(variant, folder, scratch)
    except Exception as error:
        exported = _told(error)
    return Measured(
        family,
        variant.class_name,
        _first_wrong([*outputs, *gradients]),
        exported,
        _largest(outputs),
        _largest(gradients),
        all(sequences) if sequences else None,
    )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _first_wrong(results: Sequence[Result]) -> str | None:
    for result in results:
        if result.problem is not None or not result.passed:
            return f"{result.call} {result.output}: {result.problem or f'{result.relative:.1e}'}"
    return None


def _largest(results: Sequence[Result]) -> float | None:
    return max((result.relative for result in results if result.relative is not None), default=None)


def _reopened_differs(variant: Variant, folder: Path, scratch: Path) -> str | None:
    """What differs after the model has been written from our config alone and opened by the reference.

    The reference opens both here: what it gave on another machine was rounded otherwise.
    """
    export(dataclasses.replace(load(folder), origin=None), scratch)
    reopen = importlib.import_module(f"third_party.oracles.{MODULES[variant.package]}").reopen
    written, original = (reopen(variant.class_name, one) for one in (scratch, folder))
    for call in read_oracle(folder).calls:
        if call.fn != "generate":
            given = Call(call.name, call.arguments, call.fn, call.kw)
            ours, theirs = run(written, given), run(original, given)
            for name in call.outputs:
                if not np.array_equal(ours[name].detach(), theirs[name].detach()):
                    return f"{call.name} {name} differs when the reference opens what is written"
    return None


def measure_all(names: Sequence[str], given: Path) -> Iterator[Measured]:
    """Every variant of the named families of parity folders."""
    total, done, start = sum(len(oracles.FAMILIES[name]) for name in names), 0, time.monotonic()
    for name in names:
        for number, variant in enumerate(oracles.FAMILIES[name]):
            done += 1
            with tempfile.TemporaryDirectory() as temporary:
                folder = given / str(number)
                try:
                    if variant.package != "open_flamingo":
                        folder = oracles.make(name, Path(temporary) / "reference", number)
                    found = measure(variant, folder, Path(temporary) / "fresh")
                except Exception as error:
                    family = name if name in FAMILIES else name.replace("_", "-")
                    found = Measured(family, variant.class_name, _told(error), "no model to export")
            jax.clear_caches()
            wrong = found.imported or found.exported
            print(
                f"{done}/{total} {time.monotonic() - start:5.0f} s  {name} {number}: {wrong or 'passed'}",
                file=sys.stderr,
                flush=True,
            )
            yield found


def row(family: str, measured: Sequence[Measured]) -> dict[str, str]:
    """A line of the table."""
    if not measured:
        no = "NO: not measured"
        return dict.fromkeys(COLUMNS, "-") | {"family": family, "import": no, "export": no}

    def figure(name: str) -> str:
        values = [getattr(one, name) for one in measured if getattr(one, name) is not None]
        return f"{max(values):.1e}" if values else "-"

    def verdict(name: str) -> str:
        wrong = [(number, getattr(one, name)) for number, one in enumerate(measured) if getattr(one, name)]
        return "; ".join(f"NO: variant {number}: {reason}" for number, reason in wrong).replace("|", "/") or "yes"

    greedy = [one.greedy for one in measured if one.greedy is not None]
    return {
        "family": family,
        "reference": ", ".join(dict.fromkeys(one.class_name for one in measured)),
        "variants": str(len(measured)),
        "import": verdict("imported"),
        "export": verdict("exported"),
        "outputs": figure("outputs"),
        "gradients": figure("gradients"),
        "greedy": ("yes" if all(greedy) else "NO") if greedy else "-",
        "full sizes": ", ".join(SIZES_CHECKED.get(family, ())) or "-",
    }


def table(measured: Sequence[Measured], kept: Mapping[str, str]) -> str:
    """The file; `kept` are lines of it by family that hold where nothing was measured."""
    families = dict.fromkeys((*FAMILIES, *(one.family for one in measured)))
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    for family in families:
        own = [one for one in measured if one.family == family]
        lines.append(_line(row(family, own).values()) if own or family not in kept else kept[family])
    return head() + "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def head() -> str:
    """What stands above the table."""
    return HEAD.format(
        references=f"{open_flamingo.VERSION}, {hugging_face.VERSION}",
        jax=jax.__version__,
        backend=jax.default_backend(),
        tolerance=TOLERANCE,
        gradients=GRADIENT_TOLERANCE,
    )


def kept_lines() -> dict[str, str]:
    """The lines of the file by family.

    Raises:
      ValueError: it was written with other versions or tolerances.
    """
    written = TABLE.read_text()
    if not written.startswith(head()):
        raise ValueError(f"{TABLE} was written with other versions; write all of it, without --only")
    lines = written.removeprefix(head()).splitlines()[2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--open-flamingo",
        type=Path,
        default=ROOT / "tests" / "parity" / "open_flamingo",
        metavar="DIR",
        help="parity folders of OpenFlamingo, named 0, 1, ...",
    )
    parser.add_argument(
        "--only", nargs="+", choices=sorted(oracles.FAMILIES), metavar="FAMILY", help="measure these alone"
    )
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # Hundreds of programs that run once each: compiling them well would take most of the time.
    jax.config.update("jax_disable_most_optimizations", True)
    kept = kept_lines() if options.only else {}
    written = table(list(measure_all(options.only or list(oracles.FAMILIES), options.open_flamingo)), kept)
    partial = TABLE.with_suffix(".partial")
    partial.write_text(written)
    os.replace(partial, TABLE)


if __name__ == "__main__":
    main()
