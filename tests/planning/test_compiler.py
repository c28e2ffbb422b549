"""The compiler's process: what it gives back, quickly and in full, and how it ends in every other case."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from mmjax.core.errors import InputError
from mmjax.parallel.chips import CHIPS
from mmjax.planning import topology as topology_module
from mmjax.planning.compiler import CompiledProgram, CompilerError, OutOfMemory, compile_program
from mmjax.planning.hlo import program_facts
from mmjax.planning.memory import parse_memory, parse_size
from mmjax.planning.topology import parse_topology

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install mmjax[plan]"
)
BUILDERS = "tests.planning.programs:"
TRAINED = {"topology": "v5e:4x4", "axes": {"fsdp": 16, "tensor": 1}, "layers": 4, "rows": 256, "width": 256}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where temporary folders are made; nothing may stay in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.glob("mmjax-plan-*")) == []


@needs_libtpu
def test_the_quick_way_and_the_full_one_agree(folder):
    quick = compile_program(BUILDERS + "trained", TRAINED)
    full = compile_program(BUILDERS + "trained", TRAINED, full=True)
    assert isinstance(quick, CompiledProgram)
    assert quick.facts == full.facts == {"layers": 4}
    weights, rows = 2 * 4 * 256 * 1024 * 2 // 16, 256 * 256 * 2 // 16
    memory = quick.memory
    assert (memory.argument_bytes, memory.donated_bytes) == (weights + rows, weights)
    assert memory.output_bytes <= 2048  # the loss and the tuple of results
    assert memory.hbm_bytes == memory.spaces["default"]
    parts = memory.argument_bytes + memory.output_bytes + memory.temp_bytes + memory.constant_bytes
    assert parts <= memory.hbm_bytes <= parts + 2**16
    assert memory.largest[0].bytes >= weights // 2
    assert memory.code_bytes is None
    assert full.memory.code_bytes > 2**16
    assert full.memory.hbm_bytes == memory.hbm_bytes
    quick_facts, full_facts = (program_facts(one.hlo, TRAINED["axes"]) for one in (quick, full))
    assert quick_facts.collective_bytes() == full_facts.collective_bytes()
    assert quick_facts.cycles is None
    assert full_facts.cycles > 0
    parts = [quick.seconds[part] for part in ("start", "build", "lower", "compile")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(quick.seconds["total"])
    assert min(quick.seconds["processor"], full.seconds["processor"]) > 0


@needs_libtpu
def test_too_little_hbm_is_a_result(folder):
    large = TRAINED | {"layers": 100, "width": 16384, "rows": 16}
    result = compile_program(BUILDERS + "trained", large)
    assert isinstance(result, OutOfMemory)
    usable = CHIPS["v5e"].slices.usable_hbm_bytes
    assert result.available_bytes == usable
    state = 2 * 100 * 16384 * 65536 * 2 // 16
    assert result.used_bytes > state
    assert result.memory.donated_bytes == state
    assert "exceeds available HBM (15.75G)" in result.message


@needs_libtpu
def test_without_donation_results_have_their_own_place(folder):
    memory = compile_program(BUILDERS + "trained", TRAINED | {"donate": False}).memory
    assert memory.donated_bytes == 0
    assert memory.output_bytes >= 2 * 4 * 256 * 1024 * 2 // 16


@needs_libtpu
@pytest.mark.parametrize(
    ("builder", "error", "message"),
    [
        ("refused", InputError, "width must divide by 3"),
        ("broken", CompilerError, "exit code 1 .*broken: ZeroDivisionError: no layers"),
        ("killed", CompilerError, "signal 6"),
    ],
)
def test_other_ends_are_one_clear_error(folder, builder, error, message):
    with pytest.raises(error, match=message):
        compile_program(BUILDERS + builder, {})


@needs_libtpu
def test_an_option_that_the_compiler_does_not_know_is_its_first_line(folder):
    with pytest.raises(CompilerError, match="xla_no_such_option"):
        compile_program(BUILDERS + "trained", TRAINED, options={"xla_no_such_option": True})


@needs_libtpu
def test_time_runs_out(folder, tmp_path):
    with pytest.raises(CompilerError, match=r"was not done with .*endless after 4 s"):
        compile_program(BUILDERS + "endless", {"note": str(tmp_path / "note")}, timeout_seconds=4)
    assert _ends(int((tmp_path / "note").read_text()))


@needs_libtpu
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_parent(tmp_path, how):
    note = tmp_path / "note"
    # What runs in the background may have been told to ignore SIGINT.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mmjax.planning.compiler import compile_program\n"
        f"compile_program({BUILDERS + 'endless'!r}, {{'note': {str(note)!r}}})"
    )
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(root)}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=root, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not (note.exists() and note.read_text()) and time.monotonic() < end:
            time.sleep(0.1)
        parent.send_signal(how)
        assert parent.wait(timeout=30) != 0
        assert _ends(int(note.read_text()))
    finally:
        parent.kill()
        parent.wait()
    if how == signal.SIGINT:
        assert list(tmp_path.glob("mmjax-plan-*")) == []


def _ends(pid):
    """Whether a process is gone (or waits to be collected) within some seconds."""
    for _ in range(100):
        try:
            if pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


@needs_libtpu
def test_the_parent_never_loads_the_compiler():
    program = (
        "import sys, jax\n"
        "import mmjax.planning.compiler, mmjax.planning.topology, mmjax.planning.hlo\n"
        "mmjax.planning.topology.parse_topology('v5p:8x8x16')\n"
        "mmjax.planning.topology.require_compiler()\n"
        "assert 'libtpu' not in sys.modules\n"
        "assert 'libtpu' not in open('/proc/self/maps').read()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=pathlib.Path(__file__).parents[2])


def test_without_libtpu_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topology_module.importlib.util, "find_spec", lambda name: None)
    for call in (parse_topology("v5e:2x2").devices, lambda: compile_program(BUILDERS + "trained", TRAINED)):
        with pytest.raises(InputError, match=r"pip install mmjax\[plan\]"):
            call()


USAGE = """Memory Space: default (color=0)
Total bytes: 6800 (6.6KiB)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
     4.0KiB( 61%);     4.0KiB;            0;                2; bf16[4,512]
     6.0KiB(100%);     2.0KiB;         4096;                1; f32[512]

Memory Space: vmem (color=1)
Total bytes: 70 (70B)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
        70B(100%);        70B;            0;                2; u8[70]
"""
ASSIGNMENT = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <5 add.50 @0> (size=512,offset=0): bf16[]{:T(256)}
allocation 1: size 4096, parameter 0, shape |bf16[4,512]| at ShapeIndex {}, maybe-live-out:
allocation 2: size 100, parameter 1, shape |bf16[50]| at ShapeIndex {}:
allocation 3: size 8, output shape is |(bf16[4,512], f32[])|, maybe-live-out:
allocation 4: size 4, maybe-live-out:
allocation 5: size 16, constant:
allocation 6: size 70, color 1, preallocated-temp:
allocation 7: size 2048, preallocated-temp:
"""


def test_the_compilers_reports_are_read():
    memory = parse_memory(ASSIGNMENT, USAGE)
    assert memory.hbm_bytes == 6800
    assert (memory.argument_bytes, memory.donated_bytes, memory.output_bytes) == (4196, 4096, 12)
    assert (memory.temp_bytes, memory.constant_bytes) == (2048, 16)
    assert memory.spaces == {"default": 6800, "vmem": 70}
    assert [(one.bytes, one.shapes) for one in memory.largest] == [(4096, "bf16[4,512]"), (2048, "f32[512]")]
    assert [parse_size(text) for text in ("58.36G", "512.0M", "7", "2.00T")] == [
        round(58.36 * 2**30),
        2**29,
        7,
        2**41,
    ]
