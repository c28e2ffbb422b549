"""One of two processes that join, and then end well, fail, or get stuck, as the first argument says."""

import argparse
import os
import signal
import sys
import time

import jax

from mmjax.core.errors import TrainingError
from mmjax.parallel import distributed, peers
from mmjax.training.guards import StopRequest, Watchdog

parser = argparse.ArgumentParser()
parser.add_argument("what")
distributed.add_arguments(parser)
options = parser.parse_args()
distributed.join(options, heartbeat_seconds=15)
me, code, error = jax.process_index(), 0, None
watchdog = Watchdog(5 if options.what == "stuck" else 100)
if options.what == "raise" and me == 1:
    watchdog.beat("step 4")
    time.sleep(1)
    code, error = 1, TrainingError("9 of 10 records could not be used")
elif options.what in ("raise", "stuck"):
    watchdog.beat("the rows of step 8" if me == 1 else "step 7")
    time.sleep(100)
elif options.what == "stop":
    with StopRequest().listening() as stop:
        if me == 1:
            os.kill(os.getpid(), signal.SIGINT)
        step = 1
        while not stop.after(step):
            time.sleep(0.05 + 0.05 * me)
            step += 1
    print(f"stopped by {stop.name} after {step}")
sys.exit(peers.leave(code, error))
