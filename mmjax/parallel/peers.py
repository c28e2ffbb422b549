"""What the processes of a run tell each other beside their computations: that they live, and why one ended.

JAX's coordination service, which process 0 holds, keeps what is said here. A process that fails publishes its reason;
the others print it and end, instead of waiting in a collective operation that never comes to its end. Every process
says every few seconds where it is; process 0 notices who is silent, and all notice when process 0 is. The service's
own heartbeats end the processes too, later and with less of a reason.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time

import jax
from jax._src import distributed as _distributed  # the service's store has no public name

from mmjax.core.errors import InputError

# Share of the heartbeat time-out after which a silent process counts as gone, so that all end before it is over.
_SILENCE = 0.7
_AGAIN = "start the same command again to resume from the last checkpoint"
_FAILED, _ALIVE = "mmjax/failed", "mmjax/alive"
_LISTEN_MILLISECONDS = 3_600_000
# Characters of one value in the service's store.
_PART = 1 << 19


class Peers:
    """The other processes of this run; made by `start`."""

    def __init__(self, client, *, heartbeat_seconds: float):
        self.index = jax.process_index()
        self._client = client
        self._patience = _SILENCE * heartbeat_seconds
        self._interval = min(5.0, heartbeat_seconds / 20)
        self._at = "start"
        self._said = 0
        self._done = threading.Event()
        self._ending = threading.Lock()
        self._answered = time.monotonic()
        self._coordinator = "process 0"
        self._threads = [
            threading.Thread(target=work, name=f"peers{work.__name__}", daemon=True)
            for work in (self._tell, self._listen, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def note(self, what: str) -> None:
        """Says where this process is, such as "step 7"."""
        self._at = what

    def places(self) -> str:
        """Where the other processes are, those that are elsewhere than this one; "" where all are here."""
        try:
            told = self._read()
        except jax.errors.JaxRuntimeError:
            return ""
        other = [f"{_name(index, one)} is at {one['at']}" for index, one in told.items() if one["at"] != self._at]
        return "; ".join(other[:8])

    def fail(self, reason: str, *, stacks: bool = False, code: int = 1) -> None:
        """Tells all processes why this one ends; of several reasons the first one stays. `stacks`: have them dumped."""
        told = {"index": self.index, "host": socket.gethostname(), "at": self._at, "reason": reason}
        try:
            self._client.key_value_set(_FAILED, json.dumps({**told, "stacks": stacks, "code": code}))
        except jax.errors.JaxRuntimeError:
            return  # another one was first, or there is nobody left to tell

    def end(self, code: int) -> None:
        """Ends this process at once; process 0 last, since what the others read is with it."""
        with self._ending:
            sys.stdout.flush()
            sys.stderr.flush()
            if self.index == 0:
                time.sleep(min(3.0, self._patience / 2))
            os._exit(code)

    def meet(self, what: str) -> None:
        """Waits until all processes are here; once in a run for each `what`.

        Before the first step of all: one may have found its programs in the cache while another compiles them, and the
        operations of CPUs with each other (gloo) wait for half a minute only.
        """
        self._client.wait_at_barrier(f"mmjax/{what}", _LISTEN_MILLISECONDS)

    def exchange(self, text: str) -> list[str]:
        """What each process says, in their order; all must call it equally often.

        Through the service, which waits as long as it takes: operations of devices with each other do not.
        """
        name = f"mmjax/said/{self._said}"
        self._said += 1
        parts = [text[start : start + _PART] for start in range(0, len(text), _PART)] or [""]
        self._client.key_value_set(f"{name}/{self.index}", str(len(parts)))
        for number, part in enumerate(parts):
            self._client.key_value_set(f"{name}/{self.index}/{number}", part)
        said = []
        for index in range(jax.process_count()):
            count = int(self._client.blocking_key_value_get(f"{name}/{index}", _LISTEN_MILLISECONDS))
            keys = [f"{name}/{index}/{number}" for number in range(count)]
            said.append("".join(self._client.blocking_key_value_get(key, _LISTEN_MILLISECONDS) for key in keys))
        self.meet(f"said/{self._said}")
        self._client.key_value_delete(f"{name}/{self.index}")  # and what lies below it
        return said

    def await_reason(self) -> None:
        """After an operation with all processes failed here: if it was because one is gone, ends with that reason."""
        time.sleep(self._patience + 3 * self._interval)

    def close(self) -> None:
        """Waits until all processes have come to their ends, and leaves."""
        self.meet("done")
        self._done.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first to come here wakes all that listen
            self._client.key_value_set(_FAILED, json.dumps(None))
        for thread in self._threads:  # one that waits in JAX's service while Python ends would crash the process
            thread.join()
        jax.distributed.shutdown()

    def _tell(self) -> None:
        number, seen = 0, {}
        while not self._done.is_set():
            began = time.monotonic()
            number += 1
            try:
                told = {"number": number, "host": socket.gethostname(), "at": self._at}
                self._client.key_value_set(f"{_ALIVE}/{self.index}", json.dumps(told), allow_overwrite=True)
                self._answered = time.monotonic()
                if self.index == 0:
                    self._find_silent(seen)
            except jax.errors.JaxRuntimeError:
                pass  # `_listen` and `_watch` say what it means
            if self._sleep(began):
                seen.clear()

    def _find_silent(self, seen) -> None:
        """Compares what every process says with what it said before; `seen` holds it, and when it was new."""
        now = time.monotonic()
        for index, one in self._read().items():
            if seen.get(index, (None,))[0] != one["number"]:
                seen[index] = (one["number"], now)
            elif now - seen[index][1] > self._patience and not self._done.is_set():
                silence = now - seen[index][1]
                reason = (
                    f"{_name(index, one)} is gone, or stopped: no sign of life for {silence:.0f} s, last at {one['at']}"
                )
                self.fail(reason)
                self._say(reason)
                self.end(1)

    def _listen(self) -> None:
        while not self._done.is_set():
            try:
                told = self._client.blocking_key_value_get(f"{_ALIVE}/0", _LISTEN_MILLISECONDS)
                self._coordinator = _name(0, json.loads(told))
                told = json.loads(self._client.blocking_key_value_get(_FAILED, _LISTEN_MILLISECONDS))
            except jax.errors.JaxRuntimeError as error:
                if self._done.is_set() or "DEADLINE_EXCEEDED" in str(error):
                    continue
                self._say(f"{self._coordinator}, which coordinates the others, is gone (this process is at {self._at})")
                self.end(1)
            if told is None or told["index"] == self.index:
                return
            about = told["reason"]
            if not about.startswith("process "):
                about = f"{_name(told['index'], told)} ended at {told['at']}: {about}"
            self._say(about, again=told["code"] != InputError.exit_code)
            if told["stacks"]:
                faulthandler.dump_traceback(all_threads=True)
            self.end(told["code"])

    def _watch(self) -> None:
        while not self._done.is_set():
            began = time.monotonic()
            silence = began - self._answered
            if silence > self._patience:
                self._say(
                    f"{self._coordinator}, which coordinates the others, is gone, or stopped: no answer for "
                    f"{silence:.0f} s (this process is at {self._at})"
                )
                self.end(1)
            if self._sleep(began):
                self._answered = time.monotonic()

    def _sleep(self, began) -> bool:
        """Waits for the next round; True where this process itself stood still, so that it cannot judge others."""
        self._done.wait(self._interval)
        return time.monotonic() - began > self._patience / 2

    def _read(self) -> dict[int, dict]:
        told = self._client.key_value_dir_get(_ALIVE)
        found = {int(key.rsplit("/", 1)[-1]): json.loads(value) for key, value in told}
        return {index: found[index] for index in sorted(found) if index != self.index}

    def _say(self, reason: str, *, again: bool = True) -> None:
        print(f"error: {reason}{f'; {_AGAIN}' if again else ''}", file=sys.stderr, flush=True)


_current: Peers | None = None


def start(heartbeat_seconds: float) -> None:
    """Begins to tell and to listen, once `jax.distributed` is set up."""
    global _current
    _current = Peers(_distributed.global_state.client, heartbeat_seconds=heartbeat_seconds)


def current() -> Peers | None:
    """The other processes of this run; None where there is one process."""
    return _current


def leave(code: int, error: BaseException | None) -> int:
    """The end of a verb: waits for the other processes where this one did well, tells them why where it did not.

    Returns `code` where there is one process or all did well; otherwise it does not return.
    """
    if _current is None:
        return code
    if code == 0:
        _current.close()
        return 0
    reason = f"exit code {code}" if error is None else " ".join(str(error).split())[:600] or type(error).__name__
    _current.fail(reason, code=code)
    _current.end(code)
    return code


def await_reason(error: BaseException) -> None:
    """Before an error is reported: what the devices say when a process is gone is not the reason, so wait for it.

    Such an error may have led to others, such as that of a save that could not be ended.
    """
    cause: BaseException | None = error
    while _current is not None and cause is not None:
        if isinstance(cause, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(cause):
            print(f"an operation with the other processes failed: {str(cause).splitlines()[0][:300]}", file=sys.stderr)
            _current.await_reason()
            return
        cause = cause.__cause__ or cause.__context__


def _name(index: int, told: dict) -> str:
    return f"process {index} at {told['host']}"
