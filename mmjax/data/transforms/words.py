"""Texts while training: templates, typing errors, dropped words, and the masking of masked language models."""

from __future__ import annotations

import string
from collections.abc import Collection

import numpy as np

from mmjax.core.arrays import Bool, Int
from mmjax.core.errors import ConfigError
from mmjax.data.keyed import Dice

PLACE = "{}"


def check_template(template: str) -> None:
    """Raises ConfigError for a template without a place for the text, `{}`, or with several."""
    if template.count(PLACE) != 1:
        raise ConfigError(f"the template {template!r} must have one {PLACE}, where the text comes")


def in_template(text: str, template: str) -> str:
    """A template with the text in its place."""
    return template.replace(PLACE, text)


def with_typos(text: str, dice: Dice, *, share: float) -> str:
    """Each letter is mistyped with probability `share`: left out, doubled, replaced, or swapped with the next."""
    typed: list[str] = []
    letters = iter(text)
    for letter in letters:
        if not letter.isalpha() or dice.uniform() >= share:
            typed.append(letter)
            continue
        kind = dice.below(4)
        if kind == 1:
            typed += [letter, letter]
        elif kind == 2:
            typed.append(dice.choice(string.ascii_lowercase))
        elif kind == 3:
            typed += [next(letters, ""), letter]
    return "".join(typed)


def words_dropped(text: str, dice: Dice, *, share: float) -> str:
    """Each word is left out with probability `share`; where that is all of them, one stays."""
    words = text.split(" ")
    kept = [word for word in words if dice.uniform() >= share]
    return " ".join(kept) if any(kept) else dice.choice([word for word in words if word] or words)


def tokens_kept(
    tokens: Int[np.ndarray, " T"], dice: Dice, *, share: float, special: Collection[int]
) -> Bool[np.ndarray, " T"]:
    """Which tokens stay where each is left out with probability `share`, special ones never."""
    return np.array([token in special or dice.uniform() >= share for token in tokens.tolist()], bool)


def mask_tokens(
    tokens: Int[np.ndarray, " T"],
    dice: Dice,
    *,
    mask: int,
    vocab_size: int,
    special: Collection[int],
    share: float = 0.15,
) -> tuple[Int[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    """The input of a masked language model, and which tokens it has to find (Devlin et al. 2019, section 3.1).

    A share of the tokens, at least one, is chosen, special ones never. Of them 80 in 100 become `mask`, 10 a random
    token that is not special, and 10 stay.
    """
    special = {*special, mask}
    open_to_it = [place for place, token in enumerate(tokens.tolist()) if token not in special]
    chosen = dice.sample(open_to_it, min(len(open_to_it), max(1, round(share * len(open_to_it)))))
    masked, found = tokens.copy(), np.zeros(len(tokens), bool)
    reserved = sorted(token for token in special if 0 <= token < vocab_size)
    for place in chosen:
        found[place] = True
        kind = dice.below(10)
        if kind < 8:
            masked[place] = mask
        elif kind == 8:
            masked[place] = _ordinary(dice.below(vocab_size - len(reserved)), reserved)
    return masked, found


def _ordinary(number, reserved):
    """The token of that number among those that are not reserved."""
    for token in reserved:
        number += number >= token
    return number
