"""What a scheduler writes for one request, as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mmjax.core.arrays import Float, Int
from mmjax.decoding.streaming import TextStream


class Piece(NamedTuple):
    """Text that became certain (often none), and the tokens since the piece before, with their log-probabilities."""

    text: str
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]


class Written(NamedTuple):
    """The whole: `ended_by` is the name of the token that ended it, "stop" for a stop string, "length", "cancelled".

    The token that ended it is the last; `text` leaves it out, and the stop string too.
    """

    text: str
    tokens: Int[np.ndarray, "T"]
    log_probabilities: Float[np.ndarray, "T"]
    ended_by: str


class Reply:
    """Iterate over it for the pieces as they come, from any thread and as often as wanted.

    `take` and `fail` are the scheduler's.
    """

    def __init__(
        self,
        texts: TextStream,
        ends: Mapping[int, str],
        max_tokens: int,
        on_piece: Callable[[Piece], object] | None = None,
    ):
        self._texts, self._ends, self._max_tokens, self._on_piece = texts, ends, max_tokens, on_piece
        self._pieces: list[Piece] = []
        self._ended_by: str | None = None
        self._error: Exception | None = None
        self._changed = threading.Condition()

    @property
    def done(self) -> bool:
        """Whether no more will come."""
        return self._ended_by is not None or self._error is not None

    def cancel(self) -> None:
        """Ends it with what is written so far; does nothing if it has ended."""
        with self._changed:
            if not self.done:
                self._ended_by = "cancelled"
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Piece]:
        """Raises what went wrong with the request, after the pieces until then."""
        number = 0
        while True:
            with self._changed:
                while number == len(self._pieces) and not self.done:
                    self._changed.wait()
                if number == len(self._pieces):
                    if self._error is not None:
                        raise self._error
                    return
                piece = self._pieces[number]
            number += 1
            yield piece

    def result(self, timeout: float | None = None) -> Written:
        """Waits for the end, at most `timeout` seconds.

        Raises:
          TimeoutError: it has not come by then.  What went wrong with the request.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"no end within {timeout} seconds")
            if self._error is not None:
                raise self._error
            pieces, ended_by = list(self._pieces), self._ended_by
        return Written(
            "".join(piece.text for piece in pieces),
            np.array([token for piece in pieces for token in piece.tokens], np.int32),
            np.array([value for piece in pieces for value in piece.log_probabilities], np.float32),
            ended_by,
        )

    def take(self, token: int, log_probability: float) -> None:
        """The next token; what comes after the end is left out."""
        with self._changed:
            if self.done:
                return
            end = self._ends.get(token)
            text = "" if end else self._texts.push(token)
            if end is None and self._texts.stop is not None:
                end = "stop"
            elif end is not None or len(self._pieces) + 1 == self._max_tokens:
                text += self._texts.end()
                end = "stop" if self._texts.stop is not None else end or "length"
            piece = Piece(text, (token,), (log_probability,))
            self._pieces.append(piece)
            self._ended_by = end
            self._changed.notify_all()
        if self._on_piece is not None:
            self._on_piece(piece)

    def fail(self, error: Exception) -> None:
        """Ends it with an error, which whoever waits for it gets."""
        with self._changed:
            if not self.done:
                self._error = error
                self._changed.notify_all()
