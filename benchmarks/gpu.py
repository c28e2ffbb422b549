"""Steps on one GPU beside PyTorch's: a decoder of 1.2B parameters (train and greedy decoding), a ViT-L/14, a LLaVA.

    python -m benchmarks.gpu [--only decoder greedy vit vlm] [--steps 20] [--tiny]

Ours and torch's run in turns, each in a process of its own (benchmarks/alternate.py). Torch runs transformers' models,
of random configurations, compiled, with `sdpa` attention (flash kernels) and the fused AdamW. On both sides what trains
is float32, products are bfloat16, and the numbers of parameters are equal.

MFU: FLOPs of the model (of a causal grid half, nothing recomputed) over the nominal peak. The ratio is that of torch's
seconds to ours, round by round: above 1, ours is faster. Without a GPU that both JAX and torch can use, it ends with
exit code 2; --tiny runs tiny models on CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence

from benchmarks.alternate import ROOT, SideError, Timed, compare, serve, spread, table
from benchmarks.gpu_shapes import TINY, Shapes

COLUMNS = ("", "ours, s", "torch, s", "ours, /s", "torch, /s", "ours, MFU", "torch, MFU", "ratio")
NAMES = {
    "decoder": "decoder, train step",
    "greedy": "decoder, greedy decoding",
    "vit": "ViT, train step",
    "vlm": "LLaVA, tower frozen, train step",
}

# What a process of its own says, so that this one holds no device memory.
_PROBE = """
import json, jax, torch
device = jax.devices()[0]
print(json.dumps({"platform": device.platform, "kind": device.device_kind, "torch": torch.cuda.is_available()}))
"""


def gpu_here() -> str:
    """The kind of the GPU.

    Raises:
      SystemExit: JAX or torch has none; the exit code is 2.
    """
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, env=_environment())
    found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"platform": "none", "torch": False}
    missing = [name for name, has in (("JAX", found["platform"] == "gpu"), ("torch", found["torch"])) if not has]
    if missing:
        print(f"error: not measured: {' and '.join(missing)} found no GPU here", file=sys.stderr)
        raise SystemExit(2)
    return found["kind"]


def row(name: str, shapes: Shapes, timed: Timed, peak_flops: float | None) -> list[str]:
    """The cells of COLUMNS."""
    amount, unit = {
        "decoder": (shapes.decoder.rows * shapes.decoder.length, "tokens"),
        "greedy": (shapes.prompts * shapes.decoder.new, "new tokens"),
        "vit": (shapes.vit.count, "images"),
        "vlm": (shapes.vlm_vision.count * shapes.vlm_length, "tokens"),
    }[name]
    medians = [statistics.median(seconds) for seconds in (timed.ours, timed.torch)]
    shares = ["-" if peak_flops is None else f"{(timed.flops or 0) / one / peak_flops:.1%}" for one in medians]
    rates = [f"{amount / one:,.0f} {unit}" for one in medians]
    return [NAMES[name], spread(timed.ours), spread(timed.torch), *rates, *shares, spread(timed.ratios, ".2f")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; with --side, is one of the two processes. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(NAMES), default=list(NAMES), help="these rows alone")
    parser.add_argument("--steps", type=int, default=20, help="steps that count, after three that do not (default 20)")
    parser.add_argument("--tiny", action="store_true", help="tiny models on CPU, to see that it runs")
    parser.add_argument("--side", nargs=2, metavar=("WORK", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    shapes = TINY if options.tiny else Shapes()
    if options.side:
        _serve(*options.side, shapes)
        return 0
    peak_flops = None
    if not options.tiny:
        peak_flops = _peak(gpu_here())
    rows: list[list[str]] = []
    failed = 0
    for name in options.only:
        try:
            rows.append(row(name, shapes, _timed(name, options), peak_flops))
        except SideError as error:
            failed = 1
            print(f"error: {NAMES[name]}: {error}", file=sys.stderr)
            rows.append([NAMES[name], "failed", *[""] * (len(COLUMNS) - 2)])
    print(table(COLUMNS, rows), end="")
    return failed


def _serve(work: str, side: str, shapes: Shapes) -> None:
    if side == "torch":
        from benchmarks.gpu_torch import WORKS
    else:
        from benchmarks.gpu_ours import WORKS
    serve(lambda: WORKS[work](shapes))


def _timed(name: str, options) -> Timed:
    base = [sys.executable, "-m", "benchmarks.gpu", *(["--tiny"] if options.tiny else [])]
    commands = {side: [*base, "--side", name, side] for side in ("ours", "torch")}
    environment = _environment() | ({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if options.tiny else {})
    warmup = 1 if options.tiny else 3
    return compare(commands, ["run"], rounds=options.steps, warmup=warmup, environment=environment)["run"]


def _environment() -> Mapping[str, str]:
    """Both sides share the GPU's memory, so that neither may take it in advance."""
    return {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": str(ROOT)}


def _peak(kind: str) -> float | None:
    from mmjax.parallel.chips import chip_of

    chip = chip_of(kind)
    return None if chip is None else chip.peak_flops


if __name__ == "__main__":
    sys.exit(main())
