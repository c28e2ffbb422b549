"""Work shared by processes: results and errors come back, and nothing is left running."""

import functools
import os
import pickle

import pytest

from mmjax.core.errors import DataError, InputError
from mmjax.data.workers import run_shared


def square(number):
    print("this is not an answer")
    return number * number, os.getpid()


class Counted:
    """Something that takes long to unpickle: `made` is how often this process did."""

    made = 0

    def __reduce__(self):
        return Counted._make, ()

    @classmethod
    def _make(cls):
        cls.made += 1
        return cls()


def made(counted, number):
    return counted.made


def fail(kind, number):
    if number == 3:
        raise DataError("number 3 is bad", kind=kind) if kind else ValueError("a bug")
    return number


def end(number):
    os._exit(7)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_results_come_back_from_two_processes(capfd):
    results = dict(run_shared(square, [(number,) for number in range(20)], what="squares", processes=2))
    assert {number: result for number, (result, _) in results.items()} == {n: n * n for n in range(20)}
    pids = {pid for _, pid in results.values()}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(map(gone, pids))
    assert capfd.readouterr().out == ""


def test_what_is_shared_by_all_tasks_is_sent_once():
    work = functools.partial(made, Counted())
    results = run_shared(work, [(number,) for number in range(12)], what="tasks", processes=2)
    assert {result for _, result in results} == {1}


def test_errors_come_back_as_they_were():
    tasks = [(number,) for number in range(10)]
    with pytest.raises(DataError, match="number 3 is bad") as caught:
        list(run_shared(functools.partial(fail, "odd"), tasks, what="x", processes=2))
    assert caught.value.kind == "odd"
    with pytest.raises(RuntimeError, match="ValueError: a bug"):
        list(run_shared(functools.partial(fail, ""), tasks, what="x", processes=2))
    with pytest.raises(RuntimeError, match="ended with exit code 7"):
        list(run_shared(end, tasks, what="x", processes=2))


def test_few_tasks_are_done_here():
    assert {pid for _, (_, pid) in run_shared(square, [(1,), (2,)], what="x", processes=2)} == {os.getpid()}


def test_leaving_early_ends_the_processes():
    results = run_shared(square, [(number,) for number in range(50)], what="x", processes=2)
    _, (_, pid) = next(results)
    results.close()
    assert gone(pid)


def test_errors_can_be_pickled():
    for error in (DataError("a", kind="b"), InputError("c")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
