"""METEOR and SPICE, whose only official implementations are Java programs that come with the package pycocoevalcap.

Nothing is fetched: where Java, the package or a model is missing, `Unavailable` says which and what to do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmjax.core.errors import MmjaxError

_CORENLP = "stanford-corenlp-3.6.0"


class Unavailable(MmjaxError):
    """A score cannot be computed on this machine; the message says what it lacks."""


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of the corpus (Denkowski & Lavie 2014), from 0 to 1, of captions that are tokenized as for BLEU.

    Raises:
      Unavailable: there is no Java, no pycocoevalcap, or the program failed.
    """
    folder = _folder() / "meteor"
    lines = [
        " ||| ".join(["SCORE", *texts, candidate.replace("|||", "").replace("  ", " ")])
        for candidate, texts in zip(candidates, references, strict=True)
    ]
    # The words are UTF-8 to the program whatever the locale.
    options = ["-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            [_java(), *options], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
        ) as program,
    ):
        try:
            statistics = [_ask(program, line, 1)[0] for line in lines]
            # A score for each caption comes first, that of all of them last.
            return float(_ask(program, " ||| ".join(["EVAL", *statistics]), len(lines) + 1)[-1])
        except (OSError, ValueError) as error:
            raise Unavailable(f"the METEOR program failed: {_first_line(complaints) or error}") from error
        finally:
            program.kill()
            # What it would not read any more is lost with it.
            with contextlib.suppress(OSError):
                program.stdin.close()


def _ask(program: subprocess.Popen, line: str, answers: int) -> list[str]:
    program.stdin.write(f"{line}\n".encode())
    program.stdin.flush()
    found = [program.stdout.readline().decode().strip() for _ in range(answers)]
    if not all(found):
        raise ValueError("it stopped answering")
    return found


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """SPICE (Anderson et al. 2016): the mean F1 of scene-graph tuples, from 0 to 1, of tokenized captions.

    Raises:
      Unavailable: there is no Java, no pycocoevalcap, no Stanford CoreNLP 3.6.0 beside it, or the program failed.
    """
    folder = _folder() / "spice"
    lacking = [name for name in (f"{_CORENLP}.jar", f"{_CORENLP}-models.jar") if not (folder / "lib" / name).exists()]
    if lacking:
        raise Unavailable(
            f"SPICE needs {' and '.join(lacking)} in {folder / 'lib'}, which scoring does not fetch; "
            "python -m pycocoevalcap.spice.get_stanford_models does"
        )
    records = [
        {"image_id": number, "test": candidate, "refs": list(texts)}
        for number, (candidate, texts) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        given, found = Path(scratch) / "captions.json", Path(scratch) / "scores.json"
        given.write_text(json.dumps(records), encoding="utf-8")
        command = [_java(), "-Xmx8G", "-jar", "spice-1.0.jar", str(given), "-out", str(found), "-subset", "-silent"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if done.returncode or not found.exists():
            complaint = done.stderr.decode(errors="replace").strip().splitlines()[:1]
            raise Unavailable(f"the SPICE program failed: {''.join(complaint) or f'exit code {done.returncode}'}")
        scores = [record["scores"]["All"]["f"] for record in json.loads(found.read_text(encoding="utf-8"))]
    return math.fsum(scores) / len(scores)


def _java() -> str:
    program = shutil.which("java")
    if program is None:
        raise Unavailable("there is no Java on this machine (the program java is not on PATH)")
    return program


def _folder() -> Path:
    _java()
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None:
        raise Unavailable("its program comes with the package pycocoevalcap; pip install 'mmjax[eval]'")
    return Path(next(iter(found.submodule_search_locations)))


def _first_line(file) -> str:
    file.seek(0)
    return file.readline().decode(errors="replace").strip()
