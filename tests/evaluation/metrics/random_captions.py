"""Captions at random that look like those of a data set: people's five, and one that is much like them."""

import random

TEXT = """
a a a man woman dog cat is riding on top of the red blue bus street two people standing next to large with and U.S.
Main St. t-shirt it's cannot, 3 "stop" (left) café in isn't black-and-white 1/2 7:30 a.m. Mr. Smith's o'clock
$5.00 50% 1,000 #1 12:30pm 1990s '90s 5'10" 10-year-old 1 1/2 Dr. No. 5 J. etc. U.S.-made They're dogs' “Yield” 'Go'
AT&T McDonald's O'Hare Coca-Cola T.V. w/ and/or he/she wasn't gonna 747 foo.com 2-story Jan. mid-air ?! -- … naïve 72°F
"""
WORDS = TEXT.split()
ENDS = ("", ".", " .", "!", ",", "...")


def caption(generator: random.Random) -> str:
    words = [generator.choice(WORDS) for _ in range(generator.randint(1, 14))]
    return " ".join(words) + generator.choice(ENDS)


def near(text: str, generator: random.Random) -> str:
    """The text with some words replaced."""
    words = text.split()
    for _ in range(generator.randint(0, 4)):
        words[generator.randrange(len(words))] = generator.choice(WORDS)
    return " ".join(words)


def caption_sets(count: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Candidates, a few of them empty or far off, and five references for each."""
    generator = random.Random(seed)
    candidates, references = [], []
    for _ in range(count):
        base = caption(generator)
        references.append([near(base, generator) if generator.random() < 0.8 else caption(generator) for _ in range(5)])
        candidates.append(generator.choice([near(base, generator), near(base, generator), caption(generator)]))
    candidates[0] = ""
    return candidates, references
