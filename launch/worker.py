"""What every process of a launched run executes: training, or the measurement of `benchmarks/pod.py`.

    python -m launch.worker train --config C --workdir DIR ...
    python -m launch.worker measure --config C --out FILE ...

`mmjax train` exits 0 when a signal stopped it, since the state is saved; a cluster would take the run for finished.
Here that is 75 ("try again later" among the exit codes of sysexits.h): start the same command again.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence

from mmjax.cli import main as mmjax

STOPPED = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs them in this process, which so gets the signals itself; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["measure"]:
        from benchmarks import pod  # with all of JAX, which the launchers, who take STOPPED from here, can do without

        return pod.main(words[1:])
    if words[:1] != ["train"]:
        print("error: give train or measure, and arguments", file=sys.stderr)
        return 2
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = mmjax([*words, "--json"])
    text = printed.getvalue()
    print(text, end="", flush=True)
    if code or not text:
        return code
    result = json.loads(text.splitlines()[-1])
    if not result["stopped_by"]:
        return 0
    print(f"stopped by {result['stopped_by']} at step {result['step']}; the run is not finished", file=sys.stderr)
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
