"""Work shared by processes of this machine: measuring and indexing, which the interpreter's lock would serialise.

A process that works takes a pickled function and then its arguments, task by task, from its standard input, and answers
with pickled results. It is a plain child rather than a fork (JAX has threads by then) or a spawned copy of the main
module (which need not be importable).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from mmjax.core.errors import MmjaxError
from mmjax.core.progress import progress_bar

R = TypeVar("R")


def run_shared(
    function: Callable[..., R], tasks: Sequence[tuple], *, what: str, processes: int | None = None, least: int = 8
) -> Iterator[tuple[int, R]]:
    """(number of the task, `function(*task)`) for each task as it gets done, with a progress bar.

    `processes`: how many work, by default one a core; fewer tasks than `least` are done here, one after another. An
    error of a task is raised here, and ends the others.
    """
    count = min(processes or _cores(), len(tasks))
    bar = progress_bar(total=len(tasks), what=what)
    with bar:
        if count < 2 or len(tasks) < least:
            for number, task in enumerate(tasks):
                yield number, function(*task)
                bar.update()
            return
        for number, result in _by_children(function, tasks, count):
            yield number, result
            bar.update()


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _by_children(function, tasks, count):
    children = [_start() for _ in range(count)]
    begun: set[int] = set()
    free: queue.SimpleQueue = queue.SimpleQueue()
    for child in children:
        free.put(child)

    def ask(number):
        child = free.get()
        try:
            if child.pid not in begun:
                begun.add(child.pid)
                return number, _ask(child, function, tasks[number])
            return number, _ask(child, tasks[number])
        finally:
            free.put(child)

    pool = concurrent.futures.ThreadPoolExecutor(count)
    try:
        waiting, numbers = set(), iter(range(len(tasks)))
        while True:
            for number in numbers:
                waiting.add(pool.submit(ask, number))
                if len(waiting) >= 2 * count:
                    break
            if not waiting:
                return
            done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        for child in children:
            child.kill()
        pool.shutdown(cancel_futures=True)
        for child in children:
            child.wait()
            child.stdout.close()
            with contextlib.suppress(OSError):  # what it was not told any more
                child.stdin.close()


def _start():
    command = [sys.executable, "-c", "from mmjax.data.workers import serve; serve()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(  # in a session of its own: Ctrl-C is for the one that asked, who ends the others
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )


def _ask(child, *messages) -> Any:
    try:
        for message in messages:
            pickle.dump(message, child.stdin)
        child.stdin.flush()
        failed, result = pickle.load(child.stdout)
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        child.kill()  # it cannot be asked again; this changes nothing where it has ended
        raise RuntimeError(f"a worker process ended with exit code {child.wait()}; was memory short?") from None
    if failed:
        raise result
    return result


def serve() -> None:
    """Works off tasks from standard input until it ends; what functions print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    function = None
    while True:
        try:
            if function is None:
                function = pickle.load(sys.stdin.buffer)
            arguments = pickle.load(sys.stdin.buffer)
            answer = (False, function(*arguments))
        except EOFError:
            return
        except MmjaxError as error:
            answer = (True, error)
        except Exception as error:
            answer = (True, RuntimeError(f"{type(error).__name__}: {error}"))
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:  # whoever asked is gone
            os._exit(1)
