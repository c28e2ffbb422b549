"""Questions of several options: which one an answer means, by the rules of MMMU and of MMBench."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.data.keyed import Dice, key_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_STRIPPED = (",", ".", "!", "?", ";", ":", "'")
_MARKS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)

Openly = str | float


def mmmu_choice(response: str, options: Mapping[str, str], *, id: str) -> str:
    """The letter of the option that a response means, as MMMU's evaluation reads it (Yue et al. 2024).

    "(A)" counts before a bare "A", that before the words of an option, which count in responses of more than five
    words; of several the last one. Where there is none the official code draws one at random: so does this, by `id`, so
    that a score is the same each time.

    Args:
      options: the words of each letter.
    """
    for mark in _STRIPPED:
        response = response.strip(mark)
    response = f" {response} "
    lower = response.lower()
    places = {letter: response.rfind(f"({letter})") for letter in options}
    if max(places.values()) < 0:
        places = {letter: response.rfind(f" {letter} ") for letter in options}
    if max(places.values()) < 0 and len(response.split()) > 5:
        places = {letter: lower.rfind(words.lower()) for letter, words in options.items()}
    if max(places.values()) < 0:
        return Dice(key_of("mmmu", id)).choice(list(options))
    return max(places, key=lambda letter: places[letter])


def mmmu_open(response: str) -> set[Openly]:
    """What a response to an open question may be taken to say, as MMMU's evaluation reads it.

    Of each sentence what follows the last "is", "so", "answer" and their like, the shortest such; the numbers in them
    as well. Texts are in lower case, numbers rounded to two decimals.
    """
    key = _key_parts(response)
    numbers = [found for part in key for pattern in _NUMBERS for found in pattern.findall(part)]
    return {value for text in (*key, *numbers) for value in _mmmu_normal(text)}


def mmmu_open_match(said: set[Openly], right: Sequence[str]) -> bool:
    """Whether one of what was said is a right answer: an equal number, or a text that holds it."""
    wanted = [value for answer in right for value in _mmmu_normal(answer)]
    texts = [value for value in wanted if isinstance(value, str)]
    for value in said:
        if isinstance(value, str) and any(text in value for text in texts):
            return True
        if not isinstance(value, str) and value in wanted:
            return True
    return False


def _key_parts(response: str) -> list[str]:
    response = response.strip().strip(".").lower()
    # After the text is in lower case no sentence begins with a capital: as officially, line breaks alone divide it.
    sentences = re.split(r"\.\s(?=[A-Z])|\n", response)
    parts = []
    for number, sentence in enumerate(sentences, 1):
        marks = (*_MARKS, "=") if number == len(sentences) else _MARKS
        tails = [sentence.split(mark)[-1].strip() for mark in marks if mark in sentence]
        shortest = _first_shortest(tails)
        if shortest and shortest not in _STRIPPED:
            parts.append(shortest)
    return parts or [response]


def _first_shortest(tails: Sequence[str]) -> str:
    """The shortest; as officially, after an empty one the count begins anew."""
    best = ""
    for tail in tails:
        if not best or len(tail) < len(best):
            best = tail
    return best


def _mmmu_normal(text: str) -> list[Openly]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        # A single letter matches only where it stands beside a space.
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def mmbench_choice(response: str, options: Mapping[str, str]) -> str:
    """The letter of the option that a response means, by MMBench's rules (Liu et al. 2023); "" where that is not sure.

    The one letter among its words, among the last four of them; else the one option whose words it holds, if it is not
    more than twice as long as all options together. The official evaluation asks a language model about the rest.
    """
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", response).split()
    found = [letter for letter in options if letter in words]
    if len(found) == 1 and words.index(found[0]) > len(words) - 5:
        return found[0]
    lower = response.lower()
    if len(lower) > 2 * sum(len(words) for words in options.values()):
        return ""
    held = [letter for letter, words in options.items() if words.lower() in lower]
    return held[0] if len(held) == 1 else ""


# Rows of one question differ by a multiple of this in their index.
ROTATION = 1_000_000


def circular_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """MMBench's questions with all rotations of their options, those of one question one after the other.

    Args:
      rows: of the official table: index, question, answer, and options A, B, ... Files for circular evaluation hold the
        rotations already, with an index above `ROTATION`; of a question that stands there once they are made here.
    """
    questions: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        questions.setdefault(int(row["index"]) % ROTATION, []).append(dict(row))
    return [row for found in questions.values() for row in (found if len(found) > 1 else _rotated(found[0]))]


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The options of a row by their letters: those of A, B, ... that are there."""
    return {letter: str(row[letter]) for letter in LETTERS if row.get(letter) not in (None, "")}


def _rotated(row: dict[str, Any]) -> list[dict[str, Any]]:
    options = options_of(row)
    letters, words = list(options), list(options.values())
    made = []
    for turn in range(len(letters)):
        turned = dict(zip(letters, words[turn:] + words[:turn], strict=True))
        answer = letters[(letters.index(row["answer"]) - turn) % len(letters)] if row["answer"] in letters else ""
        made.append({**row, **turned, "index": int(row["index"]) + turn * ROTATION, "answer": answer})
    return made
