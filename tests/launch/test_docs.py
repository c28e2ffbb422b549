"""The guide's commands are those that the launchers take."""

import pathlib
import re

import pytest

from launch import cloud_tpu, gke, slurm
from launch import local as local_processes
from tests.launch.dry_runs import LAUNCHERS, dry_run

ROOT = pathlib.Path(gke.__file__).parents[1]
# Placeholders of the texts, as names that can be.
NAMES = {"BUCKET": "my-bucket", "REGISTRY": "registry", "CLUSTER": "cluster", "PROJECT": "project"}


def commands_in(text):
    """`python -m launch....` of indented lines; one that is cut short by `...` or told of only is no command."""
    joined = re.sub(r" *\\\n +", " ", text)
    for line in re.findall(r"^ {4}python -m launch\.(\w+) +(.*?)(?: +# .*)?$", joined, flags=re.MULTILINE):
        launcher, words = line
        if "..." not in words and not words.endswith("--help`"):
            for placeholder, name in NAMES.items():
                words = words.replace(placeholder, name)
            yield launcher, re.sub(r" +", " ", words)


TEXTS = [(ROOT / "docs/pods.md").read_text(), *(module.__doc__ for module in (gke, cloud_tpu, slurm, local_processes))]
FOUND = [pytest.param(*found, id=f"{found[0]} {found[1][:24]}") for text in TEXTS for found in commands_in(text)]


def test_the_texts_have_commands():
    assert {case.values[0] for case in FOUND} == {*LAUNCHERS, "local"}


@pytest.mark.parametrize("launcher, words", FOUND)
def test_a_command_of_the_guide_is_understood(nothing_runs, monkeypatch, capsys, launcher, words):
    monkeypatch.chdir(ROOT)
    if launcher == "local":
        before, _, after = words.partition(" -- ")
        assert local_processes.main([*before.split(), "--dry-run", "--", *after.split()]) == 0
        assert "mmjax" in capsys.readouterr().out
    else:
        assert dry_run(launcher, words)
