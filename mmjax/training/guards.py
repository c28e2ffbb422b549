"""What watches over a run: signals that ask it to end, a step that hangs, programs compiled when none should be."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import jax.monitoring
from jax.experimental import multihost_utils

from mmjax.parallel import peers

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class StopRequest:
    """Turns SIGTERM and SIGINT into a stop between steps; a second one ends the process at once.

    Of several processes it is enough that one gets the signal: JAX, which then handles SIGTERM itself, finds the first
    step that none of them has begun.
    """

    def __init__(self):
        self.name = ""

    def after(self, step: int) -> bool:
        """Whether the run stops after `step`, for all processes alike; each must ask after every step."""
        if peers.current() is not None and multihost_utils.reached_preemption_sync_point(step):
            self.name = "SIGTERM"
        return bool(self.name)

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handles the signals within the block (only the main thread can; elsewhere nothing changes)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        several = peers.current() is not None
        signals = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, _pass_on if several else self._note) for number in signals]
        try:
            yield self
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def _note(self, number, frame):
        if self.name:
            os._exit(128 + number)
        self.name = signal.Signals(number).name


def _pass_on(number, frame):
    os.kill(os.getpid(), signal.SIGTERM)


class Watchdog:
    """Ends the process, after the stacks of all threads, when `beat` was not called for `seconds` (0: never)."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._last = time.monotonic()
        self._done = threading.Event()
        self._what = "start"
        if seconds > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, what: str) -> None:
        """Says that the run is alive, and what it does next."""
        self._last, self._what = time.monotonic(), what
        if peers.current() is not None:
            peers.current().note(what)

    def close(self) -> None:
        """Stops watching."""
        self._done.set()

    def _watch(self):
        while not self._done.wait(min(1.0, self._seconds / 4)):
            waited = time.monotonic() - self._last
            if waited > self._seconds:
                self._end(waited)

    def _end(self, waited):
        others = peers.current()
        places = others.places() if others is not None else ""
        elsewhere = f" ({places})" if places else ""
        reason = f"no progress for {waited:.0f} s at {self._what}{elsewhere}: a stuck device or process"
        print(
            f"error: {reason}. The stacks of all threads follow; start the same command again to resume from the last "
            "checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(all_threads=True)
        if others is not None:
            others.fail(reason, stacks=True)
            others.end(1)
        os._exit(1)


class CompilationCounter:
    """Counts the programs that XLA compiles in this process; `with counter.watching():` adds to `count`."""

    def __init__(self):
        self.count = 0
        self._active = False
        jax.monitoring.register_event_duration_secs_listener(self._note)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Counts within the block only."""
        self._active = True
        try:
            yield
        finally:
            self._active = False

    def close(self) -> None:
        """Stops listening."""
        jax.monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event, duration, **kwargs):
        if self._active and event == _COMPILE_EVENT:
            self.count += 1
