"""Stop strings: a text ends before the first of them, wherever in its tokens they begin and end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from mmjax.core.arrays import Array, Int
from mmjax.core.errors import InputError
from mmjax.decoding.loop import Rules, Texts, Writing, open_writing, write_on
from mmjax.decoding.writer import Opening, Writer, at_hand

# Tokens that are written between two looks at the text: as many more than needed may be computed, and are left out.
EVERY = 8


def before_stop(text: str, strings: Sequence[str]) -> str:
    """What stands before the first of these strings; all of a text that has none."""
    return text[: min((text.find(string) for string in strings if string in text), default=len(text))]


@dataclasses.dataclass(frozen=True)
class StopStrings:
    """decode: tokens -> text."""

    strings: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]

    def __post_init__(self):
        if not self.strings or not all(self.strings):
            raise InputError("a stop string must have at least one character")

    def cut(self, text: str) -> str:
        """See `before_stop`."""
        return before_stop(text, self.strings)

    def completed(self, tokens: Int[np.ndarray, "T"], looked_at: int) -> int | None:
        """How many tokens it takes until their text has a stop string; the first `looked_at` are known to have none."""
        whole = [int(token) for token in tokens]
        if not self._has(whole):
            return None
        return next(count for count in range(looked_at + 1, len(whole) + 1) if self._has(whole[:count]))

    def _has(self, tokens):
        text = self.decode(tokens)
        return any(string in text for string in self.strings)


def write_texts(
    writer: Writer,
    parameters: Mapping[str, Array],
    opening: Opening,
    rules: Rules,
    *,
    room: int,
    samples: int,
    steps: int,
    stops: StopStrings | None = None,
) -> Texts:
    """Reads the prompts, and writes at most `steps` tokens after each; other arguments as of `open_writing`.

    The last token of a row that has a stop string is the one that completes it.
    """
    writing = open_writing(writer, parameters, opening, rules, room=room, samples=samples)
    near = at_hand(writer, parameters)
    if stops is None:
        return write_on(writer, near, writing, rules, steps=steps).read()
    return _write_to_stops(writer, near, writing, rules, stops, steps)


def _write_to_stops(writer, parameters, writing: Writing, rules: Rules, stops: StopStrings, steps: int) -> Texts:
    limits = np.array(rules.limits)
    looked_at = np.zeros_like(limits)
    for start in range(0, steps, EVERY):
        writing = write_on(writer, parameters, writing, rules.replace(limits=limits), steps=min(EVERY, steps - start))
        texts, done = writing.read(), jax.device_get(writing.done)
        lengths = np.minimum(texts.lengths, limits)
        for row in np.flatnonzero(lengths > looked_at):
            found = stops.completed(texts.tokens[row, : lengths[row]], int(looked_at[row]))
            looked_at[row] = lengths[row]
            if found is not None:
                limits[row] = looked_at[row] = found
        if np.all(done | (texts.lengths >= limits)):
            break
    return texts._replace(lengths=np.minimum(texts.lengths, limits))
