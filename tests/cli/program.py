"""The installed program, run as a process of its own."""

import os
import pathlib
import subprocess
import sys


def run_program(*arguments, **environment):
    """Runs `mmjax ARGUMENTS` outside of the tests' surroundings: (exit code, standard output, standard error)."""
    program = pathlib.Path(sys.executable).with_name("mmjax")
    keep = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env={**keep, **environment})
    return done.returncode, done.stdout, done.stderr
