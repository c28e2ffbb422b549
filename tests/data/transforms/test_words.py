"""Transforms of texts and tokens."""

import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.data.keyed import Dice, fold
from mmjax.data.transforms.words import (
    check_template,
    in_template,
    mask_tokens,
    tokens_kept,
    with_typos,
    words_dropped,
)

SPECIAL = {0, 1, 2, 3, 4, 99}


def test_templates():
    assert in_template("{a} dog", "a photo of {}.") == "a photo of {a} dog."
    for template in ("no place", "{} and {}"):
        with pytest.raises(ConfigError, match=r"must have one \{\}"):
            check_template(template)


def test_masked_tokens_are_80_10_10_and_never_special():
    counts = {"mask": 0, "random": 0, "same": 0}
    seen = set()
    for key in range(300):
        tokens = np.random.default_rng(key).integers(0, 99, 200)
        masked, found = mask_tokens(tokens, Dice(fold(1, key)), mask=4, vocab_size=100, special=SPECIAL)
        ordinary = ~np.isin(tokens, list(SPECIAL))
        assert found.sum() == round(0.15 * ordinary.sum())
        assert not (found & ~ordinary).any()
        assert np.array_equal(masked[~found], tokens[~found])
        assert masked.dtype == tokens.dtype
        hidden = masked[found]
        counts["mask"] += (hidden == 4).sum()
        counts["same"] += (hidden == tokens[found]).sum()
        drawn = hidden[(hidden != 4) & (hidden != tokens[found])]
        counts["random"] += len(drawn)
        seen |= set(drawn.tolist())
    shares = {name: count / sum(counts.values()) for name, count in counts.items()}
    assert abs(shares["mask"] - 0.8) < 0.01
    assert abs(shares["random"] - 0.1) < 0.01
    assert seen == set(range(100)) - SPECIAL


def test_masking_short_and_special_texts():
    masked, found = mask_tokens(np.array([0, 50, 1]), Dice(0), mask=4, vocab_size=100, special=SPECIAL)
    assert found.tolist() == [False, True, False]
    masked, found = mask_tokens(np.array([0, 1]), Dice(0), mask=4, vocab_size=100, special=SPECIAL)
    assert not found.any()
    assert masked.tolist() == [0, 1]


def test_typos_hit_letters_only_at_the_rate_asked_for():
    text = "the quick brown fox, 42 dogs! " * 200
    assert with_typos(text, Dice(0), share=0.0) == text
    made = with_typos(text, Dice(1), share=0.1)
    assert made != text
    kept = [letter for letter in made if not letter.isalpha()]
    assert abs(len(made) - len(text)) < 0.02 * len(text)
    assert abs(len(kept) - sum(not letter.isalpha() for letter in text)) == 0
    words = sum(a == b for a, b in zip(made.split(), text.split(), strict=False)) / len(text.split())
    assert 0.5 < words < 0.9
    assert with_typos(text, Dice(1), share=0.1) == made
    assert sorted(with_typos("ab", Dice(key), share=1.0) for key in range(40))[-1] <= "zz"


def test_words_are_dropped_but_never_all():
    text = " ".join(f"w{number}" for number in range(2000))
    kept = words_dropped(text, Dice(0), share=0.3).split()
    assert 1300 < len(kept) < 1500
    assert sorted(kept, key=lambda word: int(word[1:])) == kept
    assert words_dropped("a b c", Dice(0), share=1.0) in "abc"
    assert words_dropped("a", Dice(0), share=0.0) == "a"


def test_dropped_tokens_are_never_special():
    tokens = np.array([0, *range(5, 95), 1] * 20)
    kept = tokens[tokens_kept(tokens, Dice(0), share=0.5, special=SPECIAL)]
    assert (kept == 0).sum() == (kept == 1).sum() == 20
    assert 750 < len(kept) - 40 < 1050
