"""Continuous batching: requests wait, are read into a free slot, and all slots are written on by one program.

    with Scheduler(RunReader(model, params, tokenizer), slots=8, length=2048) as scheduler:
        reply = scheduler.submit(Request(prompt, max_tokens=64))
        for piece in reply:
            print(piece.text, end="")

What a request writes does not depend on its slot, nor on what stands in the others.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array
from mmjax.core.errors import InputError, MmjaxError
from mmjax.decoding.readers import Prepared, Reader
from mmjax.decoding.reply import Piece, Reply
from mmjax.decoding.rows import PROMPT_BUCKET, bucket, check_lengths
from mmjax.decoding.sampling import Sampling
from mmjax.decoding.slots import Allowed, Latest, Slots, check_fits, read_in, step
from mmjax.decoding.streaming import TextStream
from mmjax.decoding.writer import at_hand
from mmjax.parallel.sharding import use_mesh


class QueueFull(MmjaxError):
    """As many requests wait as may; try again later."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt as the reader takes it, and how it is to be continued.

    stop: the text ends before the first of these strings.
    """

    prompt: Any
    max_tokens: int = 64
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)
    stop: tuple[str, ...] = ()


class _Job:
    """A request on its way: `asked` counts the tokens that the device was asked for."""

    def __init__(self, request: Request, prepared: Prepared, reply: Reply):
        self.request, self.prepared, self.reply = request, prepared, reply
        self.asked = 0


class _Flight(NamedTuple):
    """What was asked of the device and is not looked at yet: which job each row of `latest` belongs to."""

    latest: Latest
    jobs: tuple[tuple[int, _Job], ...]


class Scheduler:
    """Writes the answers to many requests at a time.

    `slots` are written on at the same time, each with `length` places for its prompt and its answer. At most
    `most_waiting` requests wait. `submit` and a reply's `cancel` may be called from any thread. The work is done by
    the thread that `start` starts (or the `with` block), or by whoever calls `turn`.
    """

    def __init__(self, reader: Reader, *, slots: int, length: int, most_waiting: int = 256):
        if slots < 1 or length < 2 or most_waiting < 1:
            raise InputError(
                "a scheduler needs at least 1 slot, 2 places in each, and room for 1 request that waits, not "
                f"{slots}, {length} and {most_waiting}"
            )
        self._reader, self._length, self._most_waiting = reader, length, most_waiting
        ends = np.isin(np.arange(len(reader.writable)), list(reader.ends))
        self._allowed = Allowed(jnp.asarray(reader.writable), jnp.asarray(ends))
        self._slots: Slots | None = None
        self._at_hand: Mapping[str, Array] | None = None
        self._jobs: list[_Job | None] = [None] * slots
        self._waiting: collections.deque[_Job] = collections.deque()
        self._flights: collections.deque[_Flight] = collections.deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, request: Request, *, on_piece: Callable[[Piece], object] | None = None) -> Reply:
        """Puts a request at the end of the queue. `on_piece` is called with each piece by the thread that works.

        Raises:
          InputError: the prompt cannot be read, or with its answer never fits into a slot.
          QueueFull: too many requests wait.
        """
        if request.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, not {request.max_tokens}")
        reader, prepared = self._reader, self._reader.prepare(request.prompt)
        count = len(prepared.tokens)
        whole = count + request.max_tokens
        if whole > self._length:
            raise InputError(
                f"a prompt of {count} tokens and {request.max_tokens} to be written never fit into a slot of "
                f"{self._length} places; give a shorter prompt or ask for fewer tokens"
            )
        check_lengths([whole], reader.writer.decoder.max_length)
        texts = TextStream(reader.decode, stops=request.stop, joined=reader.joined)
        job = _Job(request, prepared, Reply(texts, reader.ends, request.max_tokens, on_piece))
        with self._changed:
            if self._closed:
                raise QueueFull("the scheduler is closed and takes no more requests")
            if len(self._waiting) >= self._most_waiting:
                raise QueueFull(f"{self._most_waiting} requests wait already; try again later")
            self._waiting.append(job)
            self._changed.notify_all()
        return job.reply

    @property
    def waiting(self) -> int:
        """Requests that are in no slot yet."""
        return len(self._waiting)

    @property
    def writing(self) -> int:
        """Slots in which something is written."""
        return sum(job is not None for job in self._jobs)

    def turn(self) -> bool:
        """Reads waiting requests into free slots, and asks for one more token in each slot; False: nothing is left.

        The device is asked for the next tokens before the last ones are looked at, so that it need not wait.
        """
        self._jobs = [None if job is None or job.reply.done else job for job in self._jobs]
        self._admit()
        asked = self._ask()
        while len(self._flights) > asked:
            flight = self._flights.popleft()
            latest = jax.device_get(flight.latest)
            for row, job in flight.jobs:
                job.reply.take(int(latest.token[row]), float(latest.log_probability[row]))
        return bool(asked or self._waiting)

    def run(self) -> None:
        """Works until nothing is left."""
        while self.turn():
            pass

    def start(self) -> None:
        """Starts a thread that works as long as there is something to do."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the thread; what is not written to its end is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for job in (*self._jobs, *self._waiting):
            if job is not None:
                job.reply.cancel()
        self._waiting.clear()
        self._flights.clear()
        self._slots = None

    def __enter__(self) -> Scheduler:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self):
        while True:
            with self._changed:
                while not (self._closed or self._waiting or self._flights or self.writing):
                    self._changed.wait()
                if self._closed:
                    return
            try:
                self.turn()
            except Exception as error:  # of the device: whoever waits must hear of it
                self._give_up(error)

    def _give_up(self, error):
        """What the slots hold is lost; requests that wait are taken up with new ones."""
        jobs = [job for job in self._jobs if job is not None]
        jobs += [job for flight in self._flights for _, job in flight.jobs]
        self._jobs, self._slots = [None] * len(self._jobs), None
        self._flights.clear()
        for job in jobs:
            job.reply.fail(error)

    def _next(self) -> _Job | None:
        with self._changed:
            while self._waiting:
                job = self._waiting.popleft()
                if not job.reply.done:
                    return job
        return None

    def _admit(self):
        for slot in range(len(self._jobs)):
            while self._jobs[slot] is None:
                job = self._next()
                if job is None:
                    return
                try:
                    self._read_in(job, slot)
                except MmjaxError as error:
                    job.reply.fail(error)

    def _read_in(self, job: _Job, slot: int):
        reader, request = self._reader, job.request
        opening = reader.open(job.prepared, min(bucket(len(job.prepared.tokens), PROMPT_BUCKET), self._length - 1))
        check_fits(opening, self._slots)
        self._jobs[slot] = job
        self._slots, latest = read_in(
            reader.writer,
            reader.parameters,
            self._slots,
            opening,
            request.sampling,
            self._allowed,
            count=len(self._jobs),
            length=self._length,
            slot=slot,
            limit=request.max_tokens,
            mesh=reader.mesh,
        )
        self._note(_Flight(latest, ((0, job),)), [slot])

    def _ask(self) -> bool:
        """One step of all slots; False if there is nothing in any."""
        jobs = tuple((slot, job) for slot, job in enumerate(self._jobs) if job is not None)
        if not jobs:
            return False
        alive = np.array([job is not None for job in self._jobs])
        plain = all(_is_plain(job.request.sampling) for _, job in jobs)
        reader = self._reader
        if self._at_hand is None:
            with use_mesh(reader.mesh):
                self._at_hand = at_hand(reader.writer, reader.parameters)
        self._slots, latest = step(
            reader.writer, self._at_hand, self._slots, self._allowed, alive, plain=plain, mesh=reader.mesh
        )
        self._note(_Flight(latest, jobs), [slot for slot, _ in jobs])
        return True

    def _note(self, flight: _Flight, slots: list[int]):
        """A slot is free as soon as its last token is asked for."""
        self._flights.append(flight)
        for slot, (_, job) in zip(slots, flight.jobs, strict=True):
            job.asked += 1
            if job.asked == job.request.max_tokens:
                self._jobs[slot] = None


def _is_plain(sampling: Sampling) -> bool:
    """Whether the most probable token is asked for, whatever came before."""
    return sampling.temperature == 0.0 and sampling.repetition_penalty == 1.0 and sampling.no_repeat_ngram == 0
