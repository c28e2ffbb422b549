"""Digit sources: splits are apart, answers are true, episodes can be solved from their shots and not without."""

import dataclasses

import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.core.example import Media, Text
from mmjax.data.digits import (
    NONSENSE,
    SCENE_KINDS,
    BindConfig,
    DigitsBind,
    DigitsRead,
    DigitsScene,
    ReadConfig,
    SceneConfig,
)
from mmjax.data.episode import answer_segment, prompt_segments, training_segments
from mmjax.data.lengths import measure
from mmjax.data.scans import Scans, ScansConfig
from mmjax.text.prompt import tokenize
from mmjax.text.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
KINDS = [(DigitsRead, ReadConfig), (DigitsBind, BindConfig), (DigitsScene, SceneConfig)]


def make(source, config, **settings):
    return source(config, **{"name": "d", "seed": 0, "image_size": 32} | settings)


def scan_of(media):
    """Which scan a picture of `DigitsRead` or `DigitsBind` shows."""
    return media.frames[0].args[0]


def shown(episode):
    return [*episode.demonstrations, episode.query]


@pytest.mark.parametrize("holdout", ["random", "tail"])
def test_splits_share_no_scan_and_cover_the_file(holdout):
    train, test = (Scans(ScansConfig(split=split, holdout=holdout), 8) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    levels = np.concatenate([train._levels, test._levels]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    assert sorted(map(tuple, levels)) == sorted(map(tuple, load_digits().data))
    if holdout == "tail":
        assert sorted(map(tuple, test._levels.reshape(359, -1))) == sorted(map(tuple, load_digits().data[-359:]))


def test_the_random_split_does_not_follow_the_seed_of_the_run():
    labels = [make(DigitsRead, ReadConfig(split="test"), seed=seed)._scans.labels.tolist() for seed in (0, 1)]
    assert labels[0] == labels[1]
    other = Scans(ScansConfig(split="test", split_seed=1), 8).labels.tolist()
    assert other != labels[0]


@pytest.mark.parametrize(("source", "config"), KINDS)
def test_load_is_a_pure_function_and_pictures_alone_follow_the_epoch(source, config):
    one, two = make(source, config(count=50)), make(source, config(count=50))
    changed = 0
    for index in range(50):
        first, again, later = one.load(index, 0), two.load(index, 0), one.load(index, 1)
        assert first.id == f"d:0:{index}"
        assert later.id == f"d:1:{index}"
        for a, b, c in zip(first.segments, again.segments, later.segments, strict=True):
            if isinstance(a, Text):
                assert a == b == c
            else:
                assert np.array_equal(a.load()[0], b.load()[0])
                changed += not np.array_equal(a.load()[0], c.load()[0])
    assert changed > 45


@pytest.mark.parametrize(("source", "config"), KINDS)
def test_another_seed_or_name_gives_other_examples(source, config):
    texts = [
        [[s.text for s in one.load(i, 0).segments if isinstance(s, Text)] for i in range(50)]
        for one in (make(source, config()), make(source, config(), seed=1), make(source, config(), name="e"))
    ]
    assert texts[0] != texts[1] != texts[2] != texts[0]


@pytest.mark.parametrize(("source", "config"), KINDS)
def test_pictures_are_pictures(source, config):
    for size in (32, 47):
        one = make(source, config(count=20), image_size=size)
        for index in range(20):
            for segment in one.load(index, 3).segments:
                if isinstance(segment, Media):
                    (picture,) = segment.load()
                    assert picture.shape == (size, size, 3)
                    assert picture.dtype == np.uint8
                    assert picture.max() > 128


@pytest.mark.parametrize(("source", "config"), KINDS)
def test_lengths_are_exact(source, config):
    one = make(source, config(count=60))
    lengths = measure(one, TOKENIZER).lengths
    for index in range(60):
        made = tokenize(one.load(index, 2).segments, TOKENIZER)
        assert (len(made.tokens), made.images) == (lengths.tokens[index], lengths.images[index])


def test_held_out_pictures_are_not_shifted_and_training_ones_are():
    places = {}
    for split in ("train", "test"):
        scans = Scans(ScansConfig(split=split, sizes=(1.0,)), 32)
        pictures = {scans.picture(0, (5, number)).tobytes() for number in range(1500)}
        places[split] = len(pictures)
    assert places["test"] == 1
    assert places["train"] == 9 * 9  # a pixel of the 8x8 scan is 4 of 32 pixels, each way


def test_a_rotated_scan_is_turned_and_sizes_are_drawn():
    upright = Scans(ScansConfig(split="test", sizes=(1.0,)), 32).picture(3, (0,))
    turned = Scans(ScansConfig(split="test", sizes=(1.0,), rotation=90), 32).picture(3, (0,))
    assert np.array_equal(np.rot90(upright), turned)
    assert not np.array_equal(upright, turned)
    scans = Scans(ScansConfig(split="test", sizes=(0.5, 1.0)), 32)
    heights = {int((scans.picture(3, (number,)).max(axis=(1, 2)) > 0).sum()) for number in range(20)}
    assert len(heights) == 2
    assert max(heights) > 1.7 * min(heights)


def test_reading_asks_each_scan_once_a_pass_and_answers_truly():
    one = make(DigitsRead, ReadConfig(split="test", shots=(3,)))
    episodes = [one.episode(index) for index in range(359)]
    assert sorted(scan_of(e.query.media) for e in episodes) == list(range(359))
    for episode in episodes:
        assert len(episode.demonstrations) == 3
        assert all(turn.answer == str(one._scans.labels[scan_of(turn.media)]) for turn in shown(episode))
        assert episode.query.answer in episode.candidates


def test_a_row_reads_as_captions():
    one = make(DigitsRead, ReadConfig(shots=(1,)))
    segments = one.load(4, 0).segments
    assert [type(segment) for segment in segments] == [Media, Text, Media, Text]
    assert all(s.loss and s.end_of_chunk and s.text[0].isdigit() and s.text[1:] == "." for s in segments[1::2])


def test_words_are_many_and_of_one_length():
    assert len(set(NONSENSE)) == len(NONSENSE) >= 30
    assert {len(word) for word in NONSENSE} == {3}


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (2, 4), (5, 1), (5, 2)])
def test_an_episode_can_be_solved_from_its_shots(ways, shots):
    one = make(DigitsBind, BindConfig(split="test", ways=(ways,), shots=(shots,)))
    for index in range(60):
        episode = one.episode(index)
        labels = one._scans.labels
        word_of, scans = {}, [scan_of(turn.media) for turn in shown(episode)]
        for turn in episode.demonstrations:
            assert word_of.setdefault(labels[scan_of(turn.media)], turn.answer) == turn.answer
        assert len(set(word_of.values())) == ways == len(episode.candidates)
        assert set(word_of.values()) == set(episode.candidates)
        assert all(list(word_of.values()).count(word) == 1 for word in word_of.values())
        assert word_of[labels[scans[-1]]] == episode.query.answer
        assert len(set(scans)) == len(scans) == ways * shots + 1


def test_an_episode_cannot_be_solved_without_its_shots():
    """Neither the class, nor the place of the word among the candidates or the shots, gives the answer away."""
    one = make(DigitsBind, BindConfig(ways=(2,), shots=(2,)))
    episodes = [one.episode(index) for index in range(2000)]
    bound = 5 * np.sqrt(2000) / 2
    assert abs(sum(e.candidates[0] == e.query.answer for e in episodes) - 1000) < bound
    assert abs(sum(e.demonstrations[0].answer == e.query.answer for e in episodes) - 1000) < bound
    assert abs(sum(e.demonstrations[-1].answer == e.query.answer for e in episodes) - 1000) < bound
    words = {}
    for episode in episodes:
        words.setdefault(one._scans.labels[scan_of(episode.query.media)], []).append(episode.query.answer)
    assert all(max(map(given.count, given)) < 0.1 * len(given) for given in words.values())


def test_no_shots_leave_the_words_to_rank():
    episode = make(DigitsBind, BindConfig(shots=(0,))).episode(0)
    assert episode.demonstrations == ()
    assert len(episode.candidates) == 2
    assert prompt_segments(episode) == (episode.query.media, Text("this is a"))


def test_classes_held_out_of_training_are_never_shown():
    one = make(DigitsBind, BindConfig(classes=(0, 1, 2, 3, 4, 5, 6), ways=(2, 5)))
    seen = {int(one._scans.labels[scan_of(turn.media)]) for i in range(300) for turn in shown(one.episode(i))}
    assert seen == set(range(7))


def test_prompt_and_training_share_their_layout():
    for source, config in KINDS:
        one = make(source, config(shots=(0, 1, 2)))
        for index in range(20):
            episode = one.episode(index)
            prompt = tokenize(prompt_segments(episode), TOKENIZER, eos=False).tokens.tolist()
            answer = tokenize((answer_segment(episode.query, episode.query.answer),), TOKENIZER, bos=False, eos=False)
            whole = tokenize(training_segments(episode, "all"), TOKENIZER).tokens.tolist()
            assert [*prompt, *answer.tokens.tolist(), TOKENIZER.special["eos"]] == whole


def test_where_the_loss_is():
    episode = make(DigitsBind, BindConfig(shots=(2,))).episode(3)
    words = [turn.answer for turn in shown(episode)]
    learned = {
        rule: [s.loss for s in training_segments(episode, rule) if isinstance(s, Text) and s.end_of_chunk]
        for rule in ("all", "query", "repeated")
    }
    assert learned["all"] == [True] * 5
    assert learned["query"] == [False] * 4 + [True]
    assert learned["repeated"] == [word in words[:place] for place, word in enumerate(words)]
    assert sum(learned["repeated"]) == 3


def read_scene(turn, labels):
    """{(row, column): digit} of the scene that a turn shows."""
    return {(row, column): int(labels[scan]) for scan, row, column in turn.media.frames[0].args[0]}


def true_answer(kind, question, at):
    digits = [at[place] for place in sorted(at)]
    named = [int(word.rstrip("?")) for word in question.split() if word.rstrip("?").isdigit()]
    step = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
    if kind in step:
        (place,) = [place for place, digit in at.items() if digit == named[0]]
        return str(at[place[0] + step[kind][0], place[1] + step[kind][1]])
    return {
        "all": lambda: " ".join(map(str, digits)),
        "count": lambda: str(len(digits)),
        "sum": lambda: str(sum(digits)),
        "largest": lambda: str(max(digits)),
        "smallest": lambda: str(min(digits)),
        "contains": lambda: "yes" if named[0] in digits else "no",
    }[kind]()


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_questions_about_scenes_have_true_answers(kind):
    one = make(DigitsScene, SceneConfig(kinds=(kind,)))
    answers = set()
    for index in range(200):
        episode = one.episode(index)
        at = read_scene(episode.query, one._scans.labels)
        assert 2 <= len(at) <= 4
        assert episode.query.answer == true_answer(kind, episode.query.question, at)
        assert not episode.candidates or episode.query.answer in episode.candidates
        assert episode.kind == kind
        answers.add(episode.query.answer)
    assert len(answers) > 1


def test_a_scene_draws_its_scans_in_their_cells():
    scans = Scans(ScansConfig(split="test", sizes=(1.0,)), 32)
    picture = scans.scene(((4, 0, 1), (9, 1, 0)), (0,))
    alone = Scans(ScansConfig(split="test", sizes=(1.0,)), 16)
    assert np.array_equal(picture[:16, 16:], alone.picture(4, (0,)))
    assert np.array_equal(picture[16:, :16], alone.picture(9, (0,)))
    assert not picture[:16, :16].any()
    assert not picture[16:, 16:].any()


def test_several_questions_about_a_scene_show_it_once():
    one = make(DigitsScene, SceneConfig(questions=3))
    segments = one.load(0, 0).segments
    assert sum(isinstance(segment, Media) for segment in segments) == 1
    assert sum(isinstance(segment, Text) and segment.end_of_chunk for segment in segments) == 3


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (BindConfig(), {"ways": (5,), "classes": (7, 8, 9)}, "5 ways need as many classes"),
        (BindConfig(), {"ways": (3,), "words": ("a", "b")}, "3 ways need as many words"),
        (ReadConfig(), {"classes": (1, 10)}, "digits from 0 to 9"),
        (ReadConfig(), {"classes": (1, 1)}, "names a digit twice"),
        (ReadConfig(), {"sizes": (1.5,)}, "sizes must be"),
        (ReadConfig(), {"shots": ()}, "shots must be"),
        (SceneConfig(), {"digits": (5,)}, "digits must be from 2 to 4"),
        (SceneConfig(), {"questions": 2, "kinds": ("sum",)}, "questions must be"),
    ],
)
def test_contradictions_are_named(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **changes)


def test_too_many_shots_for_the_scans_are_refused():
    with pytest.raises(ConfigError, match="too few for 40 shots"):
        make(DigitsBind, BindConfig(split="test", shots=(40,)))
