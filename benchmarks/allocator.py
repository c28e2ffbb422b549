"""What keeping freed memory is worth on CPU devices: steps of the digits run, with and without, one after the other.

    python benchmarks/allocator.py [--steps 40] [--rounds 3]

Each measurement is a process of its own, as the setting holds for the whole process; rounds alternate between the two.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def measure(kept: bool, steps: int) -> dict[str, float]:
    """Seconds a step (median) and the share of the time that the system took, in this process."""
    if kept:
        from mmjax.parallel.host import keep_freed_memory

        if not keep_freed_memory():
            sys.exit("the allocator cannot be told here (no glibc, or not only CPUs)")
    import time

    import jax
    import numpy as np

    from mmjax.cli.configs import load_config
    from mmjax.data.stream import BatchStream
    from mmjax.training.loop import Trainer
    from mmjax.training.state import create_state
    from mmjax.training.step import make_train_step

    config = load_config(str(ROOT / "configs" / "flamingo_digits.py"), [("data.workers", "0")])
    trainer = Trainer(config, "unused")
    stream = BatchStream(config.data, trainer.tokenizer, batch_size=config.batch_size, seed=0, workers=0)
    batch = trainer.put(stream.read(0).batch)
    step = jax.jit(
        make_train_step(config, trainer.model, trainer.plan, trainer.mesh, stream.loss_weights), donate_argnums=0
    )
    state = create_state(config, trainer.model, trainer.batch_example(), trainer.plan)
    seconds = []
    for number in range(steps + 3):
        if number == 3:
            before = os.times()
        started = time.perf_counter()
        state, figures = step(state, batch)
        jax.block_until_ready(figures)
        seconds.append(time.perf_counter() - started)
    after = os.times()
    system, user = after.system - before.system, after.user - before.user
    return {"seconds": float(np.median(seconds[3:])), "system_share": system / (system + user)}


def main() -> None:
    """Prints a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=("kept", "returned"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure == "kept", options.steps)))
        return
    results = {"returned": [], "kept": []}
    for _ in range(options.rounds):
        for way, rows in results.items():
            command = [sys.executable, __file__, "--measure", way, "--steps", str(options.steps)]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    for way, rows in results.items():
        seconds = statistics.median(row["seconds"] for row in rows)
        share = statistics.median(row["system_share"] for row in rows)
        print(f"freed memory {way:<9} {1e3 * seconds:6.0f} ms a step, {share:4.0%} of the processor time in the system")


if __name__ == "__main__":
    main()
