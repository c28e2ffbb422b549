"""No test here reaches a cluster: the commands are not there, and a dry run that starts anything fails."""

import subprocess

import pytest


@pytest.fixture
def nothing_runs(monkeypatch):
    """A process that is started fails the test."""

    def start(*arguments, **settings):
        raise AssertionError(f"a dry run started {arguments}")

    monkeypatch.setattr(subprocess, "run", start)
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setenv("PATH", "")
