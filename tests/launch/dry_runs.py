"""Dry runs of the launchers, in this process, with nothing that could be executed."""

import io
import re
import shlex
from contextlib import redirect_stdout

import yaml

from launch import cloud_tpu, gke, slurm
from launch.options import main

LAUNCHERS = {"gke": gke, "cloud_tpu": cloud_tpu, "slurm": slurm}


def dry_run(launcher: str, words: str) -> str:
    """What `python -m launch.LAUNCHER WORDS --dry-run` prints; the words may have a `--` in them."""
    before, dashes, after = words.partition(" -- ")
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = main(LAUNCHERS[launcher].make_parser(), shlex.split(f"{before} --dry-run{dashes}{after}"))
    assert code == 0
    return printed.getvalue()


def commands(printed: str) -> list[list[str]]:
    """The commands of a dry run, as words, without comments and what is given to their standard input."""
    without_input = re.sub(r"(<<'(\w+)')\n.*?\n\2\n", r"\1\n", printed, flags=re.DOTALL)
    return [shlex.split(line) for line in without_input.splitlines() if not line.startswith("#")]


def given_input(printed: str) -> str:
    """What a dry run gives to the standard input of its last command that has one."""
    return re.findall(r"<<'(\w+)'\n(.*?\n)\1\n", printed, flags=re.DOTALL)[-1][1]


def manifest(printed: str) -> dict:
    """The one YAML document of a dry run."""
    (document,) = yaml.safe_load_all(given_input(printed))
    return document


def options_of(command: list[str]) -> dict[str, str]:
    """`--key=value` words of a command."""
    return dict(word.split("=", 1) for word in command if word.startswith("--") and "=" in word)
