"""Which characters the Penn Treebank tokenizer of Stanford CoreNLP 3.4.1 takes for letters, digits and symbols.

Measured: the tokenizer was run over every character of the basic plane. It knows the letters of Unicode 6.1. What is
in no set (an emoji, say) it drops. The sets are strings that stand within the brackets of a regular expression.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache

# From U+0080 on: how many characters are outside of the set, how many inside, and so on by turns.
_WORD_RUNS = """
42 1 2 1 7 1 4 1 5 23 1 31 1 646 6 3 1 3 1 1 1 20 1 223 1 5 2 158 9 38 2 7 1 39 9 45 1 1 1 2 1 2 1 1 8 27 5 3 34
6 5 63 1 10 4 102 1 43 15 163 14 54 4 1 5 22 4 1 9 1 3 1 23 25 71 1 1 11 83 58 2 19 1 6 2 12 2 10 1 7 1 7 1 3 1
8 2 2 2 22 1 7 1 1 3 4 2 9 2 2 2 4 8 1 4 2 1 5 2 12 15 3 1 6 4 2 2 22 1 7 1 2 1 2 1 2 2 1 1 18 9 4 1 1 7 10 2 3
12 3 1 9 1 3 1 22 1 7 1 2 1 5 2 21 15 2 4 10 21 8 2 2 2 22 1 7 1 2 1 5 3 1 30 2 1 3 4 10 1 1 16 2 1 6 3 3 1 4 3
2 1 1 1 2 3 2 3 3 3 12 4 5 3 3 1 4 2 1 21 10 17 3 1 8 1 3 1 23 1 10 1 5 3 26 1 2 6 2 4 10 21 8 1 3 1 23 1 10 1 5
3 1 32 1 1 2 4 10 1 2 18 8 1 3 1 41 2 8 1 3 5 1 17 2 4 10 10 6 5 18 3 24 1 9 1 1 2 7 58 58 5 15 1 10 39 2 1 1 2
2 1 1 2 1 6 4 1 7 1 3 1 1 1 1 2 2 1 17 2 5 1 1 1 6 2 10 2 4 32 1 31 10 22 8 1 36 27 5 115 43 20 11 6 6 4 4 3 1 3
2 7 3 4 13 12 1 1 10 6 38 1 1 5 1 2 43 1 333 1 4 2 7 1 1 1 4 2 41 1 4 2 33 1 4 2 7 1 1 1 4 2 15 1 57 1 4 2 67 37
16 16 85 12 620 2 17 1 26 5 75 21 13 1 4 14 18 14 18 14 13 1 3 15 52 35 1 4 1 3 10 38 10 6 88 8 41 1 1 5 70 10
29 41 40 2 5 11 44 21 7 8 10 38 23 9 53 43 10 6 10 13 1 93 47 17 7 4 10 41 30 13 56 26 36 28 10 3 49 107 4 1 4 3
2 9 192 64 278 2 6 2 38 2 6 2 8 1 1 1 1 1 1 1 31 2 53 1 7 1 1 3 3 1 7 3 4 2 6 4 13 5 3 1 7 116 1 13 1 16 13 101
1 4 1 2 10 1 1 3 5 6 1 1 1 1 1 1 4 1 11 2 4 5 5 4 1 52 2 2683 47 1 47 1 133 6 4 3 2 12 38 1 1 5 1 2 56 7 1 16 23
9 7 1 7 1 7 1 7 1 7 1 7 1 7 1 7 80 1 469 2 42 5 5 2 4 86 6 3 1 90 1 4 5 41 3 94 17 27 53 16 512 6582 74 20941 51
1165 67 46 2 269 3 28 20 47 16 25 8 70 49 9 2 103 2 4 1 4 12 11 77 10 1 3 1 4 1 23 29 52 14 50 28 10 24 6 3 1 4
38 10 23 25 29 7 47 28 11 38 41 23 3 1 8 4 10 6 23 3 1 5 48 1 1 3 2 2 5 2 1 1 1 24 3 2 11 7 3 12 6 2 6 2 6 9 7 1
7 145 35 13 10 6 11172 12 23 4 49 8452 366 2 106 38 7 12 5 5 1 1 10 1 13 1 5 1 1 1 2 1 2 1 108 33 363 18 64 2 54
40 12 116 5 1 135 19 10 7 26 6 26 11 89 3 6 2 6 2 6 2 3
"""
_SYMBOL_RUNS = """
33 1 3 5 2 1 1 7 1 4 5 1 23 1 31 1 646 1 8 1 513 1 52 1 1 1 2 1 2 1 44 2 11 4 2 7 7 1 6 1 2 2 74 1 2 1 102 1 43
14 232 3 363 2 1241 1 15 1 4461 1 88 2 2 1 3 6 12 9 2 1 2 5 1 1 43 1 3 11 1 15 21 1 91 2 1 4 1 2 10 1 1 3 5 6 1
1 1 1 1 1 4 1 11 2 4 5 5 4 1 1 5 10 49 2672 1025 2 15 1 232 1 52741 15 10 7 26 6 26 11 122 2 3 2
"""


@cache
def word_letters() -> str:
    """Letters, marks that combine with them, the soft hyphen and digits: what a word goes on with."""
    return f"A-Za-z0-9{_bracket(_members(_WORD_RUNS))}"


@cache
def first_letters() -> str:
    """What a word starts with: `word_letters` without the digits."""
    return f"A-Za-z{_bracket(code for code in _members(_WORD_RUNS) if unicodedata.category(chr(code)) != 'Nd')}"


@cache
def plain_letters() -> str:
    """Letters without marks: what stands in a word with hyphens."""
    return f"A-Za-z{_bracket(code for code in _members(_WORD_RUNS) if unicodedata.category(chr(code))[0] == 'L')}"


@cache
def digits() -> str:
    """Decimal digits of any script."""
    return f"0-9{_bracket(code for code in _members(_WORD_RUNS) if unicodedata.category(chr(code)) == 'Nd')}"


@cache
def symbols() -> str:
    """Characters beyond ASCII that are tokens by themselves and stay as they are."""
    return _bracket(_members(_SYMBOL_RUNS))


def _members(runs: str) -> Iterator[int]:
    code, inside = 0x80, False
    for length in map(int, runs.split()):
        if inside:
            yield from range(code, code + length)
        code, inside = code + length, not inside


def _bracket(codes: Iterable[int]) -> str:
    spans: list[list[int]] = []
    for code in codes:
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in spans)
