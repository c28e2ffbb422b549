"""Compiles a program for absent TPUs in a process of its own, and reads what the compiler says of its memory.

libtpu takes hold of an accelerator and of a lock when it is loaded, and code generation cannot be interrupted; so a
child process (`mmjax.planning.child`) loads it, and is ended as soon as what is asked for has been written.

The compiler dumps, in this order: the program scheduled (`after_optimizations.txt`), its buffers
(`after_optimizations-buffer-assignment.txt`, `-memory-usage-report.txt`), and the program once more
(`after_optimizations_after_buffer_assignment.txt`). When the last appears the others are complete. Only then begins
code generation, which is most of the time; nothing of the schedule or the memory changes by it. What it adds: cycle
estimates in the text, and the size of the code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.core.errors import InputError, MmjaxError
from mmjax.planning.memory import MemoryReport, parse_size, read_memory
from mmjax.planning.topology import require_compiler

# Settings of the environment: no query of a cloud machine's metadata, no accelerator, no lock, no logs outside the
# folder, and no compiled program taken from a cache, which would leave nothing to read.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Flags of another compilation would be refused by this one, or silently change it.
_NOT_INHERITED = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_SCHEDULED = "*.after_optimizations_after_buffer_assignment.txt"
_POLL_SECONDS = 0.05
_OUT_OF_HBM = re.compile(r"\(([\d.]+[KMGTP]?)\) exceeds available HBM \(([\d.]+[KMGTP]?)\)")
_OUT_OF_HBM_OLDER = re.compile(r"Used ([\d.]+[KMGTP]?) of ([\d.]+[KMGTP]?) hbm", re.IGNORECASE)


class CompilerError(MmjaxError):
    """The TPU compiler refused a program (other than for HBM), crashed, or took too long."""


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A program as compiled for one device of a slice.

    hlo: the scheduled program's text; with cycle estimates only if `full`.
    facts: what the function that built the program said of it.
    seconds: by part: "start" (of the process), "build" (trace), "lower", "compile"; their "total"; and "processor",
      what the process used of all cores, where the system tells.
    """

    hlo: str
    memory: MemoryReport
    facts: Mapping[str, Any]
    seconds: Mapping[str, float]
    full: bool


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
    """The program does not fit: what it needs and what the compiler has of HBM, in bytes a device.

    used_bytes is exact if `memory` is there (the compiler had placed all buffers), else rounded by its message.
    """

    used_bytes: int
    available_bytes: int
    message: str
    memory: MemoryReport | None
    facts: Mapping[str, Any]
    seconds: Mapping[str, float]


def compile_program(
    builder: str,
    arguments: Mapping[str, Any],
    *,
    full: bool = False,
    options: Mapping[str, str | bool | int] | None = None,
    timeout_seconds: float = 1800,
) -> CompiledProgram | OutOfMemory:
    """Compiles what `builder` ("module:function") makes of `arguments` (anything that JSON can say).

    The function returns a `mmjax.planning.child.Program`. It is called in the child, where `Topology.devices` may be.
    full: also generate the code; what only then goes wrong (a kernel that needs too much VMEM) is not seen without.
    options: compiler options, by their names without dashes.

    Raises:
      InputError: libtpu is not installed, or the builder raised it.
      CompilerError: anything but success and too little HBM, with the first line of what the compiler says.
    """
    require_compiler()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mmjax-plan-", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        job = {
            "builder": builder,
            "arguments": arguments,
            "begin": begin,  # this clock is the machine's, so the child can read it
            "folder": name,
            "options": dict(options or {}),
        }
        with _child(folder, job) as process:
            _wait(process, folder, full, timeout_seconds, builder)
            used = _processor_seconds(process.pid)
        said = _read_json(folder / "built.json")
        result = _read_json(folder / "result.json")
        parts, total = said.get("seconds", {}), time.monotonic() - begin
        seconds = {**parts, "compile": total - sum(parts.values()), "total": total}
        if used or "processor" in result:
            seconds["processor"] = result.get("processor", used)
        if "refused" in result:
            raise (InputError if result["input"] else CompilerError)(result["refused"])
        if "error" in result:
            return _failure(builder, result["error"], folder, said.get("facts", {}), seconds)
        text = folder / "compiled.txt" if full else _one(folder, "*.after_optimizations.txt")
        memory = dataclasses.replace(read_memory(folder), code_bytes=result["code_bytes"] if full else None)
        return CompiledProgram(text.read_text(), memory, said["facts"], seconds, full)


def environment_of_compiler() -> dict[str, str]:
    """The environment variables of a process that loads libtpu to compile for what is not there."""
    inherited = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    return inherited | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@contextlib.contextmanager
def _child(folder: pathlib.Path, job: dict[str, Any]) -> Iterator[subprocess.Popen]:
    """The child at work on `job`; ended, whatever happens, when the block is left.

    Its standard input stays open: when this process dies, the child sees its end and ends too.
    """
    with (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmjax.planning.child"],
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
            env=environment_of_compiler() | {"TMPDIR": str(folder)},
            start_new_session=True,
        )
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _wait(process, folder, full, timeout_seconds, builder):
    """Returns when the child is done, or when all that is asked for is written."""
    end = time.monotonic() + timeout_seconds
    while process.poll() is None:
        if not full and any(folder.glob(_SCHEDULED)):
            return
        if time.monotonic() > end:
            raise CompilerError(
                f"the TPU compiler was not done with {builder} after {timeout_seconds:g} s; give it more time, or a "
                "program whose size does not grow with depth (a scan over layers)"
            )
        time.sleep(_POLL_SECONDS)
    if not (folder / "result.json").exists():
        lines = (folder / "errors.txt").read_text(errors="replace").strip().splitlines()
        ending = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        telling = [line for line in lines if re.match(r"F\d{4} |.*Check failed", line)] or lines[-1:] or ["no word"]
        raise CompilerError(f"the TPU compiler's process ended with {ending} at {builder}: {telling[0]}")


def _processor_seconds(pid: int) -> float | None:
    """What a process has used so far (Linux); None where it cannot be told."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _failure(builder, message, folder, facts, seconds):
    found = _OUT_OF_HBM.search(message) or _OUT_OF_HBM_OLDER.search(message)
    if not found:
        raise CompilerError(f"the TPU compiler refused {builder}: {message.splitlines()[0]}")
    memory = read_memory(folder) if any(folder.glob("*-memory-usage-report.txt")) else None
    used, available = (parse_size(figure) for figure in found.groups())
    return OutOfMemory(memory.hbm_bytes if memory else used, available, message.splitlines()[0], memory, facts, seconds)


def _one(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def _read_json(path):
    return json.loads(path.read_text()) if path.exists() else {}
