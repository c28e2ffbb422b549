"""Data sets over the digit scans: reading digits, questions about scenes, and binding new words from a few shots.

Each source makes the episode of an index from a key of (seed, name, index); training lays it out as an example, and
evaluation as a prompt, so both see the same layout. For evaluation, build the source with another config:
`split="test"`, the shots, ways, classes or rotation to be tested, and take `episode(0..n-1)`. The query of
episode i is scan i (modulo their number), so that a pass over the scans asks each of them once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

from mmjax.core.errors import ConfigError
from mmjax.core.example import Example, Media
from mmjax.data.episode import Episode, LossOn, Turn, training_segments
from mmjax.data.keyed import Dice, fold, key_of
from mmjax.data.scans import Scans, ScansConfig

# Words that mean nothing, three letters each, so that no length gives one away.
_WORDS = """
bem bof cug daf dax dop fep fim gav gax gom hib hux jat jev jop kel kiv kob lep lum mib
mox nad nep nuv pim pog ruv sab sov tef tig tov vam vux wep wug yat yom zeb zuk
"""
NONSENSE = tuple(_WORDS.split())


@dataclasses.dataclass(frozen=True)
class ReadConfig(ScansConfig):
    """Rows of pictures, each followed by its digit. `shots`: how many come before the last one, one drawn per row.

    (0,) is a single picture, (3,) an interleaved row of four. `count`: examples an epoch.
    """

    shots: tuple[int, ...] = (0, 1, 2, 3)
    question: str = ""
    loss_on: LossOn = "all"
    count: int = 16384

    def __post_init__(self):
        super().__post_init__()
        _check_shots(self.shots, self.count)


class DigitsRead:
    """`<image>7.<image>3.`: the digits of a row, one by one."""

    def __init__(self, config: ReadConfig, *, name: str, seed: int, image_size: int):
        self.name = name
        self._config = config
        self._key = key_of(seed, name)
        self._scans = Scans(config, image_size)

    def __len__(self) -> int:
        return self._config.count

    def episode(self, index: int, epoch: int = 0) -> Episode:
        key = fold(self._key, index)
        dice = Dice(key)
        scans = [dice.below(len(self._scans)) for _ in range(dice.choice(self._config.shots))]
        scans.append(index % len(self._scans))
        turns = [self._turn(scan, key, epoch, place) for place, scan in enumerate(scans)]
        candidates = tuple(map(str, self._config.classes))
        return Episode(f"{self.name}:{epoch}:{index}", tuple(turns[:-1]), turns[-1], candidates, "read")

    def load(self, index: int, epoch: int) -> Example:
        episode = self.episode(index, epoch)
        return Example(episode.id, training_segments(episode, self._config.loss_on))

    def _turn(self, scan, *key):
        picture = Media((functools.partial(self._scans.picture, scan, key),))
        return Turn(picture, self._config.question, str(self._scans.labels[scan]))


# (scans to choose from, the query's scan, how many, dice) -> the scans that are shown, in order.
Pick = Callable[[Sequence[int], int, int, Dice], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class BindConfig(ScansConfig):
    """Nonsense words bound afresh to digit classes in each episode.

    ways: how many words, shots: how many pictures of each come before the query; one of each is drawn per episode.
    loss_on "repeated" also learns the words of pictures whose class was named before in the episode.
    """

    ways: tuple[int, ...] = (2,)
    shots: tuple[int, ...] = (1, 2, 4)
    words: tuple[str, ...] = NONSENSE
    question: str = "this is a"
    loss_on: LossOn = "repeated"
    count: int = 16384

    def __post_init__(self):
        super().__post_init__()
        _check_shots(self.shots, self.count)
        if not self.ways or min(self.ways) < 1:
            raise ConfigError(f"ways must be positive, not {self.ways}")
        if max(self.ways) > len(self.classes):
            raise ConfigError(f"{max(self.ways)} ways need as many classes, and classes has {len(self.classes)}")
        if max(self.ways) > len(set(self.words)):
            raise ConfigError(f"{max(self.ways)} ways need as many words, and words has {len(set(self.words))}")


class DigitsBind:
    """`<image>this is a dax.<image>this is a wug. ... <image>this is a` -> `dax`: naming from the shots alone."""

    def __init__(self, config: BindConfig, *, name: str, seed: int, image_size: int):
        self.name = name
        self._config = config
        self._key = key_of(seed, name)
        self._scans = Scans(config, image_size)
        fewest = min(map(len, self._scans.of_class.values()))
        if max(config.shots) >= fewest:
            raise ConfigError(f"{name}: a class has {fewest} scans, too few for {max(config.shots)} shots and a query")

    def __len__(self) -> int:
        return self._config.count

    def episode(self, index: int, epoch: int = 0, *, pick: Pick | None = None) -> Episode:
        """`pick` chooses and orders the shots among all scans of the episode's classes, instead of so many of each."""
        config, scans = self._config, self._scans
        key = fold(self._key, index)
        dice = Dice(key)
        query = index % len(scans)
        queried = int(scans.labels[query])
        ways, shots = dice.choice(config.ways), dice.choice(config.shots)
        others = [digit for digit in config.classes if digit != queried]
        classes = [queried, *dice.sample(others, ways - 1)]
        words = dice.sample(config.words, ways)
        if pick is None:
            shown = [
                (scan, word)
                for digit, word in zip(classes, words, strict=True)
                for scan in _others(dice.sample(scans.of_class[digit], shots + 1), query, shots)
            ]
            dice.shuffle(shown)
        else:
            word_of = dict(zip(classes, words, strict=True))
            pool = [scan for digit in classes for scan in scans.of_class[digit] if scan != query]
            shown = [(scan, word_of[int(scans.labels[scan])]) for scan in pick(pool, query, ways * shots, dice)]
        shown.append((query, words[0]))
        turns = [self._turn(scan, word, key, epoch, place) for place, (scan, word) in enumerate(shown)]
        dice.shuffle(words)
        name = f"{ways}-way"
        return Episode(f"{self.name}:{epoch}:{index}", tuple(turns[:-1]), turns[-1], tuple(words), name)

    def load(self, index: int, epoch: int) -> Example:
        episode = self.episode(index, epoch)
        return Example(episode.id, training_segments(episode, self._config.loss_on))

    def _turn(self, scan, word, *key):
        picture = Media((functools.partial(self._scans.picture, scan, key),))
        return Turn(picture, self._config.question, word)


def _others(scans, query, count):
    return [scan for scan in scans if scan != query][:count]


SceneKind = Literal["all", "count", "sum", "largest", "smallest", "contains", "left", "right", "above", "below"]
SCENE_KINDS = ("all", "count", "sum", "largest", "smallest", "contains", "left", "right", "above", "below")


@dataclasses.dataclass(frozen=True)
class SceneConfig(ScansConfig):
    """Scenes of several scans on one canvas of 2x2 cells, with questions about them.

    digits: how many scans, one drawn per scene. questions: how many are asked about each scene in a row.
    shots: how many other scenes come before, one drawn per example.
    """

    digits: tuple[int, ...] = (2, 3, 4)
    kinds: tuple[SceneKind, ...] = SCENE_KINDS
    questions: int = 1
    shots: tuple[int, ...] = (0,)
    loss_on: LossOn = "all"
    count: int = 16384

    def __post_init__(self):
        super().__post_init__()
        _check_shots(self.shots, self.count)
        if not self.kinds:
            raise ConfigError("kinds is empty: name the questions to ask")
        if not self.digits or not all(2 <= number <= 4 for number in self.digits):
            raise ConfigError(f"digits must be from 2 to 4, not {self.digits}")
        if not 1 <= self.questions <= len(self.kinds):
            raise ConfigError(f"questions must be from 1 to the number of kinds ({len(self.kinds)})")


class DigitsScene:
    """`<image>what is left of the 3? 7.`: questions about a scene of several digits."""

    def __init__(self, config: SceneConfig, *, name: str, seed: int, image_size: int):
        self.name = name
        self._config = config
        self._key = key_of(seed, name)
        self._scans = Scans(config, image_size)

    def __len__(self) -> int:
        return self._config.count

    def episode(self, index: int, epoch: int = 0) -> Episode:
        key = fold(self._key, index)
        dice = Dice(key)
        turns = []
        for place in range(dice.choice(self._config.shots) + 1):
            asked, candidates, kind = self._ask(dice, key, epoch, place)
            turns += asked
        return Episode(f"{self.name}:{epoch}:{index}", tuple(turns[:-1]), turns[-1], candidates, kind)

    def load(self, index: int, epoch: int) -> Example:
        episode = self.episode(index, epoch)
        return Example(episode.id, training_segments(episode, self._config.loss_on))

    def _ask(self, dice, *key):
        """The turns of one scene; scenes are drawn until every drawn kind of question can be asked of one."""
        kinds = dice.sample(self._config.kinds, self._config.questions)
        while True:
            placed = self._draw_scene(dice)
            asked = [_question(kind, placed, self._config.classes, dice) for kind in kinds]
            if all(asked):
                break
        picture = Media((functools.partial(self._scans.scene, tuple(scan[:3] for scan in placed), key),))
        media = [picture] + [None] * (len(asked) - 1)
        turns = [Turn(medium, q, a) for medium, (q, a, _) in zip(media, asked, strict=True)]
        return turns, asked[-1][2], kinds[-1]

    def _draw_scene(self, dice):
        """(scan, row, column, digit) for each scan, in reading order."""
        cells = sorted(dice.sample(range(4), dice.choice(self._config.digits)))
        scans = [dice.below(len(self._scans)) for _ in cells]
        return [
            (scan, cell // 2, cell % 2, int(self._scans.labels[scan])) for scan, cell in zip(scans, cells, strict=True)
        ]


# Where the answer lies, seen from the digit that the question names.
_SIDES = {
    "left": ("left of", 0, -1),
    "right": ("right of", 0, 1),
    "above": ("above", -1, 0),
    "below": ("below", 1, 0),
}


def _question(kind, placed, classes, dice):
    """(question, answer, candidates) of a kind about a scene, or None where it cannot be asked."""
    digits = [digit for *_, digit in placed]
    single = tuple(map(str, classes))
    if kind in _SIDES:
        words, down, across = _SIDES[kind]
        at = {(row, column): digit for _, row, column, digit in placed}
        pairs = [
            (digit, at[row + down, column + across])
            for (row, column), digit in at.items()
            if (row + down, column + across) in at and digits.count(digit) == 1
        ]
        if not pairs:
            return None
        reference, answer = dice.choice(pairs)
        return f"what is {words} the {reference}?", str(answer), single
    if kind == "contains":
        present = dice.below(2) == 1
        pool = digits if present else [digit for digit in classes if digit not in digits]
        if not pool:
            return None
        return f"is there a {dice.choice(pool)}?", "yes" if present else "no", ("yes", "no")
    if kind == "all":
        return "what is here?", " ".join(map(str, digits)), ()
    if kind == "count":
        return "how many digits?", str(len(digits)), ("2", "3", "4")
    if kind == "sum":
        return "what is the sum?", str(sum(digits)), tuple(map(str, range(37)))
    if kind == "largest":
        return "what is the largest?", str(max(digits)), single
    return "what is the smallest?", str(min(digits)), single


def _check_shots(shots, count):
    if not shots or min(shots) < 0:
        raise ConfigError(f"shots must be zero or more, not {shots}")
    if count < 1:
        raise ConfigError(f"count must be positive, not {count}")
