"""Every kind of data trains a tiny model from its snippet of docs/data.md, and shows its rows.

    python -m benchmarks.sources --out DIR [--steps 20] [--only KIND ...]

For each snippet: files in its layout are drawn at the places it names, under DIR (ranges of shards are shortened to
two, and `~` is DIR too); `mmjax train` runs a Flamingo of 0.3M parameters for 20 steps, or CLIP's objective over the
first kind of pairs, and `mmjax data show` writes DIR/pages/NAME.html. The table gives the loss at the first and the
last step, the records that could not be used, and the examples there are. Some files are damaged on purpose. Where a
loss is not finite, or its mean over the last quarter of the steps is no less than over the first, the exit code is 1.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.alternate import table
from benchmarks.source_files import first_two, write_files
from mmjax.cli.main import main as mmjax
from mmjax.data.sources.kinds import FILES

DOCS = Path(__file__).parents[1] / "docs" / "data.md"
WIDTH = 64
MODEL = {
    "vision": {"image_size": 32, "patch_size": 8, "width": WIDTH, "layers": 2, "heads": 2, "mlp_width": 128},
    "resampler": {"width": WIDTH, "layers": 1, "heads": 2, "head_width": 32, "latents": 8, "mlp_width": 128},
    "decoder": {"vocab_size": 264, "width": WIDTH, "layers": 2, "heads": 2, "head_width": 32, "mlp_width": 128},
    "cross": {"attention": {"heads": 2, "head_width": 32}, "mlp_width": 128, "every": 1, "gate_init": 0.5},
    "project_media": False,
}
TWO_TOWERS = {
    "vision": {**MODEL["vision"], "class_token": True, "pool": "class", "projection": 32},
    "text": {
        "decoder": {**MODEL["decoder"], "positions": "learned", "max_length": 77},
        "pool": "last",
        "projection": 32,
    },
}


def snippets(page: str) -> list[dict[str, Any]]:
    """The entries of data sets in a page of documentation, in order."""
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    nodes = [node for block in blocks for node in ast.parse(block).body]
    return [ast.literal_eval(node.value) for node in nodes if isinstance(node, ast.Expr)]


def run_config(entry: Mapping[str, Any], *, steps: int, pairs: bool) -> dict[str, Any]:
    """A run over one data set: a Flamingo, or with `pairs` two towers and CLIP's objective."""
    video = entry["options"].get("video", {})
    frames = video.get("frames", 1) if video.get("shown_as", "frames") == "frames" else 1
    length = 288 if entry["kind"] in ("llava", "chat") else 128  # their template begins with 150 bytes
    data = {"length": length, "images": 8, "frames": frames, "image_size": 32, "max_bad_share": 0.2}
    resampler = MODEL["resampler"] | {"max_frames": frames if frames > 1 else 0}
    model = {"family": "flamingo", "config": MODEL | {"resampler": resampler}}
    settings: dict[str, Any] = {}
    if pairs:
        entry = {**entry, "max_tokens": 77, "options": {**entry["options"], "end_of_chunk": False}}
        data |= {"length": 77, "images": 1, "pack": False, "layout": {"image_tokens": 0}}
        model = {"family": "two_tower", "config": TWO_TOWERS}
        settings = {"objective": {"kind": "softmax_contrastive"}}
    return {
        "seed": 0,
        "total_steps": steps,
        "batch_size": 8,
        "log_every_steps": 1,
        "eval_every_steps": 0,
        "compute_dtype": "float32",
        "model": model,
        "data": {"sources": {entry["kind"]: dict(entry)}, **data},
        "optim": {"learning_rate": 3e-3, "groups": [{"pattern": ".*"}]},
        **settings,
    }


def try_snippet(name: str, entry: Mapping[str, Any], out: Path, *, steps: int, pairs: bool = False) -> list[str]:
    """A row of the table: trains, and writes the page."""
    config = out / "configs" / f"{name}.py"
    config.parent.mkdir(exist_ok=True)
    shutil.rmtree(out / "runs" / name, ignore_errors=True)  # of an earlier time, with other files
    settings = run_config(entry, steps=steps, pairs=pairs)
    made = f"import ml_collections\n\n\ndef get_config(arg=''):\n    return ml_collections.ConfigDict({settings!r})\n"
    config.write_text(made)
    for arguments in (
        ["train", "--config", str(config), "--workdir", str(out / "runs" / name)],
        ["data", "show", "--config", str(config), "--steps", "0:2", "--out", str(out / "pages" / f"{name}.html")],
        ["data", "index", "--config", str(config), "--json"],
    ):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = mmjax(arguments)
        if code:
            raise SystemExit(f"{name}: mmjax {' '.join(arguments)} ended with {code}:\n{said.getvalue()}")
    sizes = json.loads(said.getvalue().strip().splitlines()[-1])
    losses = [row["loss"] for row in _json_lines(out / "runs" / name / "metrics.jsonl") if "loss" in row]
    replaced = [record["kind"] for record in _json_lines(out / "runs" / name / "bad_records.jsonl")]
    counts = {kind: replaced.count(kind) for kind in sorted(set(replaced))}
    bad = [f"{count} {kind}" for kind, count in {**sizes["left_out"], **counts}.items()]
    falls = "yes" if learns(losses, steps) else "NO"
    return [name, str(sizes["examples"]), f"{losses[0]:.2f}", f"{losses[-1]:.2f}", falls, ", ".join(bad) or "none"]


def learns(losses: Sequence[float], steps: int) -> bool:
    """Whether there is a loss for each step, all are finite, and those of the last quarter are smaller on average."""
    part = max(1, steps // 4)
    return len(losses) == steps and all(map(math.isfinite, losses)) and sum(losses[-part:]) < sum(losses[:part])


def _json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=sorted(FILES), help="the snippets of these kinds alone")
    options = parser.parse_args(arguments)
    out = Path(options.out).absolute()
    (out / "data").mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(out / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    entries = snippets(DOCS.read_text(encoding="utf-8"))
    os.environ["HOME"] = str(out / "data")
    rows, seen = [], {}
    with contextlib.chdir(out / "data"):
        for entry in entries:
            seen[entry["kind"]] = number = seen.get(entry["kind"], 0) + 1
            if not options.only or entry["kind"] in options.only:
                places = {"paths": [first_two(path) for path in entry["options"]["paths"]]}
                entry = {**entry, "options": {**entry["options"], **places}}
                write_files(entry["kind"], entry["options"])
                name = entry["kind"] + (f"-{number}" if number > 1 else "")
                rows.append(try_snippet(name, entry, out, steps=options.steps))
                if name == "webdataset":
                    rows.append(try_snippet("webdataset-clip", entry, out, steps=options.steps, pairs=True))
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(["kind", "examples", "first loss", "last loss", "falls", "bad records"], rows))
    return 0 if all(row[4] == "yes" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
