"""Peak memory and time of taking a large checkpoint in, against transformers loading the same, in one run.

    .venv/bin/python benchmarks/import_memory.py [--gb 8] [--keep DIR]

Makes a random Llama of that size in bfloat16 (sharded safetensors), then, each in a process of its own:
  import        `mmjax import`: to a checkpoint of mmjax on disk, in bfloat16
  load          `mmjax.interop.engine.load`: into device memory, which on a CPU is host memory
  transformers  `AutoModelForCausalLM.from_pretrained`, in bfloat16, read from the file into memory
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

WIDTH, MLP, VOCABULARY = 4096, 11_008, 32_000
_SHARD = 2_000_000_000


def make(folder: Path, gigabytes: float) -> dict[str, int]:
    """Writes the checkpoint; returns its bytes and those of its largest tensor."""
    from mmjax.interop.configs import read_config
    from mmjax.interop.engine import FAMILIES
    from mmjax.interop.layout import lay_out
    from mmjax.interop.tensors import write_folder

    per_layer = 4 * WIDTH * WIDTH + 3 * WIDTH * MLP
    layers = math.ceil((gigabytes * 1e9 / 2 - 2 * WIDTH * VOCABULARY) / per_layer)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    family = FAMILIES["llama"]
    layout = lay_out(family, read_config(family, config), family.spellings[0])
    shapes = {name: entry.shape for name, entry in layout.entries.items() if not entry.tied}
    bits = np.dtype(ml_dtypes.bfloat16)
    noise = (np.random.default_rng(0).standard_normal(2**20, np.float32) * 0.02).astype(bits)

    def contents(name: str) -> np.ndarray:
        size = math.prod(shapes[name])
        return np.resize(noise, size).reshape(shapes[name])

    write_folder(folder, shapes, dict.fromkeys(shapes, bits), contents, _SHARD)
    (folder / "config.json").write_text(json.dumps(config))
    sizes = [2 * math.prod(shape) for shape in shapes.values()]
    return {"bytes": sum(sizes), "largest": max(sizes)}


def measure(what: str, folder: Path) -> None:
    """Does one of the three in this process and prints what it took; what was imported before is the zero point."""
    if what == "transformers":
        import torch
        import transformers

        before = _peak()
        start = time.monotonic()
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        for parameter in model.parameters():  # they are mapped from the file until they are read
            parameter.data = parameter.data.clone()
    else:
        import jax.numpy as jnp

        from mmjax.interop import engine
        from mmjax.parallel.host import keep_freed_memory
        from mmjax.training.pretrained import import_checkpoint

        keep_freed_memory()  # as the command line does
        before = _peak()
        start = time.monotonic()
        if what == "import":
            with tempfile.TemporaryDirectory(dir=folder.parent) as out:
                import_checkpoint(folder, out, dtype="bfloat16")
        else:
            engine.load(folder, dtype=jnp.bfloat16)
    print(json.dumps({"seconds": time.monotonic() - start, "before": before, "peak": _peak()}))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=8.0)
    parser.add_argument("--keep", metavar="DIR", help="where to make the checkpoint, and leave it")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, Path(options.keep))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary) / "checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        made = make(folder, options.gb)
        print(f"checkpoint: {made['bytes'] / 1e9:.2f} GB, largest tensor {made['largest'] / 1e9:.2f} GB")
        took = {}
        for what in ("import", "load", "transformers"):
            command = [sys.executable, __file__, "--measure", what, "--keep", str(folder)]
            took[what] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            row = took[what]
            more = (row["peak"] - row["before"]) / 1e9
            print(
                f"{what:13} {row['seconds']:7.1f} s   peak {row['peak'] / 1e9:6.2f} GB, of which it took {more:6.2f} GB"
            )
        print(f"time, load / transformers: {took['load']['seconds'] / took['transformers']['seconds']:.2f}")


if __name__ == "__main__":
    main()
