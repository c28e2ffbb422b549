"""Text as it becomes certain, while its tokens are written one after the other."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

# What an incomplete UTF-8 sequence decodes to.
_BROKEN = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of tokens that come one at a time, up to the first of the stop strings.

    What is given out is never taken back; put together, it is `decode` of all tokens, cut at the stop string. Held back
    is what the next tokens may still change: a character of which bytes are missing, `joined` tokens (single bytes that
    a vocabulary falls back to, whose neighbours decide how they are read), and the beginning of a stop string.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], *, stops: Sequence[str] = (), joined: Container[int] = frozenset()
    ):
        self._decode, self._joined = decode, joined
        self._stops = tuple(stop for stop in stops if stop)
        # Tokens from the last but one certain place on (some decoders treat the first word of a text differently),
        # how many of them are given out, and how many characters these are.
        self._tokens: list[int] = []
        self._given = self._characters = 0
        self._held = ""
        self._stop: str | None = None

    @property
    def stop(self) -> str | None:
        """The stop string at which the text ended, if one did; whatever is pushed afterwards gives nothing."""
        return self._stop

    def push(self, token: int) -> str:
        """The text that became certain by this token; often nothing."""
        self._tokens.append(int(token))
        if self._stop is not None or int(token) in self._joined:
            return ""
        text = self._decode(self._tokens)
        if text.endswith(_BROKEN):
            return ""
        return self._give(self._take(text), last=False)

    def end(self) -> str:
        """The rest, when no token follows."""
        return "" if self._stop is not None else self._give(self._take(self._decode(self._tokens)), last=True)

    def _take(self, text):
        """What `text`, of all tokens that are kept, adds to what was taken; older tokens are let go."""
        added = text[self._characters :]
        if added:
            self._tokens, self._given = self._tokens[self._given :], len(self._tokens) - self._given
            self._characters = len(self._decode(self._tokens))
        return added

    def _give(self, added, *, last):
        text, self._held = self._held + added, ""
        found = min(((text.find(stop), -len(stop), stop) for stop in self._stops if stop in text), default=None)
        if found is not None:
            self._stop = found[2]
            return text[: found[0]]
        if last:
            return text
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
