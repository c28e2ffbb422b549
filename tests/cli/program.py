"""The installed program, run as a process of its own."""

import os
import pathlib
import subprocess
import sys

from tests.flags import QUICK_FLAGS


def surroundings(**environment):
    """The variables of a process that starts as a user's would, on one device, and those given."""
    keep = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return {**keep, "XLA_FLAGS": QUICK_FLAGS, **environment}


def quick_surroundings(cache):
    """The same for runs of a few steps: programs are not optimised, and kept in the folder `cache` for the next."""
    return surroundings(JAX_DISABLE_MOST_OPTIMIZATIONS="1", XDG_CACHE_HOME=str(cache))


def run_program(*arguments, **environment):
    """Runs `mmjax ARGUMENTS` outside of the tests' surroundings: (exit code, standard output, standard error)."""
    program = pathlib.Path(sys.executable).with_name("mmjax")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=surroundings(**environment))
    return done.returncode, done.stdout, done.stderr
