"""A process to be killed: goes on from the newest good step, saving every step until it dies."""

import sys

import jax

from mmjax.checkpoints.manager import Checkpoints
from tests.faults.fault_states import assert_is_step, like, save_step

jax.config.update("jax_platforms", "cpu")

with Checkpoints(sys.argv[1], keep_last=2, keep_best=("score", "max")) as checkpoints:
    step = 0
    if checkpoints.steps():
        restored = checkpoints.restore(like=like())
        assert_is_step(restored, restored.step)
        step = restored.step
    while True:
        step += 1
        save_step(checkpoints, step)
        print("started", step, flush=True)
        if step % 3 == 0:
            checkpoints.wait()
            print("complete", step, flush=True)
