"""The seams to the Java programs, with a program in the place of Java that answers, or does not."""

import os

import pytest

from mmjax.evaluation.metrics import java

METEOR = """#!/bin/sh
while read -r line; do
  case "$line" in
    SCORE*) echo "counts";;
    EVAL*) echo 0.25; echo 0.75; echo 0.5;;
  esac
done
"""
SPICE = """#!/bin/sh
while [ "$1" != -out ]; do shift; done
echo '[{"scores": {"All": {"f": 0.25}}}, {"scores": {"All": {"f": 0.75}}}]' > "$2"
"""
CANDIDATES, REFERENCES = ["a dog", "a bus"], [["the dog"], ["the bus"]]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Puts a program in the place of Java, and a package beside it that has the models."""

    def put(program, *, models=True):
        path = tmp_path / "java"
        path.write_text(program)
        path.chmod(0o755)
        library = tmp_path / "spice" / "lib"
        library.mkdir(parents=True)
        (tmp_path / "meteor").mkdir()
        for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar") if models else ():
            (library / name).touch()
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(java, "_folder", lambda: tmp_path)

    return put


def test_scores_are_read_from_the_programs(place):
    place(METEOR)
    assert java.meteor(CANDIDATES, REFERENCES) == 0.5


def test_spice_is_the_mean_over_captions(place):
    place(SPICE)
    assert java.spice(CANDIDATES, REFERENCES) == 0.5


def test_a_program_that_fails_is_a_reason(place):
    place("#!/bin/sh\necho Out of memory >&2\nexit 3\n")
    for score in (java.meteor, java.spice):
        with pytest.raises(java.Unavailable, match=r"the (METEOR|SPICE) program failed: Out of memory"):
            score(CANDIDATES, REFERENCES)


def test_nothing_is_fetched(place):
    place(SPICE, models=False)
    with pytest.raises(java.Unavailable, match="which scoring does not fetch"):
        java.spice(CANDIDATES, REFERENCES)


def test_without_java(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for score in (java.meteor, java.spice):
        with pytest.raises(java.Unavailable, match="there is no Java on this machine"):
            score(CANDIDATES, REFERENCES)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(java, "_java", lambda: "java")
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(java.Unavailable, match=r"pip install 'mmjax\[eval\]'"):
        java.meteor(CANDIDATES, REFERENCES)
