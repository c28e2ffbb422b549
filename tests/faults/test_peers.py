"""What two processes tell each other when both end well, one fails, one hangs, or one is told to stop."""

import re
import subprocess
import sys

from launch.local import plan, read_options
from tests.cli.program import surroundings


def run_two(what):
    """Runs both to their ends; returns exit codes and outputs."""
    flags = [one.command[one.command.index("--coordinator") :] for one in plan(read_options(["--", "train"]))]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.peer_process", what, *theirs],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=surroundings(JAX_PLATFORMS="cpu"),
        )
        for theirs in flags
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    return [process.returncode for process in running], outputs


def test_the_reason_of_one_is_in_the_log_of_the_other():
    codes, outputs = run_two("raise")
    assert codes == [1, 1], outputs
    assert re.search(
        r"error: process 1 at \S+ ended at step 4: 9 of 10 records could not be used; start the same command again",
        outputs[0],
    ), outputs


def test_of_a_stuck_process_all_tell_where_it_stands_and_give_their_stacks():
    codes, outputs = run_two("stuck")
    assert codes == [1, 1], outputs
    for output in outputs:
        assert re.search(r"error: .*no progress for \d+ s at (step 7|the rows of step 8)", output), outputs
        assert "most recent call first" in output, outputs
    assert re.search(r"process 1 at \S+ is at the rows of step 8|process 0 at \S+ is at step 7", outputs[0]), outputs


def test_a_signal_to_one_stops_both_after_the_same_step_and_both_end_well():
    codes, outputs = run_two("stop")
    assert codes == [0, 0], outputs
    steps = [re.search(r"stopped by SIGTERM after (\d+)", output) for output in outputs]
    assert all(steps) and steps[0][1] == steps[1][1], outputs
