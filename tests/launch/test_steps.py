"""Running steps: progress, the first failure, waiting, and asking before what costs."""

import subprocess
import sys

import pytest

from launch.steps import LaunchError, Step, confirm, print_steps, read_step, run_steps
from mmjax.core.errors import InputError


def program(text):
    return (sys.executable, "-c", text)


def test_steps_run_in_order_up_to_the_first_that_fails(tmp_path, capfd):
    steps = [
        Step("write", program(f"open({str(tmp_path / 'a')!r}, 'w').write(input())"), stdin="given\n"),
        Step("fail", program("raise SystemExit(3)"), hint="mend it"),
        Step("never", program(f"open({str(tmp_path / 'b')!r}, 'w')")),
    ]
    with pytest.raises(LaunchError, match=r"SystemExit\(3\).*failed with exit code 3; mend it"):
        run_steps(steps)
    assert (tmp_path / "a").read_text() == "given" and not (tmp_path / "b").exists()
    assert "[1/3] write" in capfd.readouterr().err


def test_a_program_that_is_missing_is_named():
    with pytest.raises(LaunchError, match="no-such-program is not installed here"):
        run_steps([Step("do it", ("no-such-program", "now"))])


def test_waiting_ends_when_the_word_comes_or_cannot_come_any_more(tmp_path):
    count = f"import os; p = {str(tmp_path / 'n')!r}\n"
    count += "n = os.path.getsize(p) if os.path.exists(p) else 0; open(p, 'a').write('.')\n"
    asks = program(count + "print(['QUEUED', 'QUEUED', 'ACTIVE'][n])")
    run_steps([Step("wait", asks, wait_for="ACTIVE", fail_on=("FAILED",), every_seconds=0.01)])
    assert (tmp_path / "n").read_text() == "..."
    with pytest.raises(LaunchError, match="wait: it is FAILED, not ACTIVE"):
        run_steps([Step("wait", program("print('FAILED')"), wait_for="ACTIVE", fail_on=("FAILED",))])


def test_what_a_command_prints_can_be_read():
    assert read_step(Step("ask", program("print('  yes ')"))) == "yes"
    with pytest.raises(LaunchError, match="exit code 1"):
        read_step(Step("ask", program("raise SystemExit(1)")))


def test_printed_steps_can_be_copied_into_a_shell(capsys, tmp_path):
    steps = [
        Step("say", ("echo", "a b", "$HOME")),
        Step("read", ("cat",), stdin="line 'one'\n$two\n"),
        Step("wait", ("echo", "READY"), wait_for="READY"),
    ]
    print_steps(steps)
    script = capsys.readouterr().out
    result = subprocess.run(["bash", "-eu"], input=script, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0 and result.stdout == "a b $HOME\nline 'one'\n$two\n"


def test_nothing_that_costs_is_done_without_a_yes(monkeypatch):
    confirm("Spend?", yes=True, ask=lambda question: pytest.fail("was asked"))
    with pytest.raises(InputError, match="give --yes"):
        confirm("Spend?", yes=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    confirm("Spend?", yes=False, ask=lambda question: "y")
    with pytest.raises(InputError, match="nothing was done"):
        confirm("Spend?", yes=False, ask=lambda question: "")
