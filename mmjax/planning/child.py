"""The process that loads libtpu: builds a program, lowers it for TPUs and compiles it. See `mmjax.planning.compiler`.

Reads one line of JSON from standard input, and ends when standard input does. Writes `built.json` before the compiler
begins and `result.json` after it has ended, beside what the compiler dumps.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from mmjax.core.errors import InputError, MmjaxError


@dataclasses.dataclass(frozen=True)
class Program:
    """What a builder returns: a traced function of abstract, sharded arguments, and what else to tell of it (JSON)."""

    traced: jax.stages.Traced
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def main() -> None:
    """Does the one job that standard input names."""
    begin = time.monotonic()
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = pathlib.Path(job["folder"])
    module, _, function = job["builder"].partition(":")
    try:
        program = getattr(importlib.import_module(module), function)(**job["arguments"])
    except MmjaxError as error:
        _write(folder / "result.json", {"refused": str(error), "input": isinstance(error, InputError)})
        return
    built = time.monotonic()
    lowered = program.traced.lower(lowering_platforms=("tpu",))
    lowering = time.monotonic() - built
    seconds = {"start": begin - job["begin"], "build": built - begin, "lower": lowering}
    _write(folder / "built.json", {"facts": dict(program.facts), "seconds": seconds})
    # As options of this one compilation, so that what the builder compiles for itself is not dumped.
    dump = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    try:
        compiled = lowered.compile(compiler_options=job["options"] | dump)
    except jax.errors.JaxRuntimeError as error:
        _write(folder / "result.json", {"error": str(error), "processor": time.process_time()})
        return
    (folder / "compiled.txt").write_text(compiled.as_text())
    analysis = compiled.memory_analysis()
    code = analysis.generated_code_size_in_bytes
    _write(folder / "result.json", {"code_bytes": code, "processor": time.process_time()})


def _end_with_parent():
    sys.stdin.read()
    os._exit(1)


def _write(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(path)


if __name__ == "__main__":
    main()
