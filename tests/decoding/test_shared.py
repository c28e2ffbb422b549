"""What prompts begin with alike is read once, and they go on as if each had read it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Text
from mmjax.decoding import beginnings, scoring
from mmjax.decoding.beams import Beams
from mmjax.decoding.beginnings import read_beginning
from mmjax.decoding.generate import generate
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.rows import tokenize_prompt
from mmjax.decoding.sampling import Sampling
from mmjax.decoding.scoring import score_continuations
from mmjax.decoding.shared import Group, cut, going_on, plan_groups, share
from mmjax.decoding.writer import Decode, Writer, begin, go_on
from mmjax.evaluation.models import run
from mmjax.evaluation.models.run import RunModel
from mmjax.models.decoders.decoder import Decoder
from tests.decoding.test_rings import CONFIGS, opened, random_parameters
from tests.decoding.tiny_models import LetterTokenizer, picture, tiny_model
from tests.decoding.tiny_models import random_parameters as flamingo_parameters
from tests.quick import quick_jit

TOKENIZER = LetterTokenizer()
NEW = 6
# However little they save.
every_group = functools.partial(plan_groups, prefix_tokens=8, least_saved=0)


def prompt(*parts):
    """Of pictures, by number, and texts."""
    segments = [picture(part) if isinstance(part, int) else Text(part, end_of_chunk=part.isupper()) for part in parts]
    return Prompt(tuple(dataclasses.replace(s, text=s.text.lower()) if isinstance(s, Text) else s for s in segments))


def groups(prompts, **settings):
    texts = [tokenize_prompt(one, TOKENIZER) for one in prompts]
    return every_group(texts, [one.media for one in prompts], **settings)


def test_groups_are_of_the_longest_common_beginnings():
    alike = [prompt("abcx"), prompt("abd"), prompt("abcy"), prompt("zz")]
    assert groups(alike, prefix_tokens=0) == [Group(0, 0, (3,)), Group(3, 0, (0, 1, 2))]
    assert groups(alike, prefix_tokens=5) == [Group(0, 0, (3,)), Group(3, 0, (0, 1, 2))]
    assert groups(alike, prefix_tokens=6) == [Group(0, 0, (0, 1, 2, 3))]
    assert groups(alike, prefix_tokens=0, least_saved=6)[1:] == [Group(3, 0, (0, 1, 2))]
    assert groups(alike, prefix_tokens=0, least_saved=7) == [Group(0, 0, (0, 1, 2, 3))]
    # The longer beginning of two of them saves more than the shorter one of three.
    assert groups([prompt("abcdefx"), prompt("abcdefy"), prompt("ab")], prefix_tokens=0)[-1] == Group(7, 0, (0, 1))
    # A prompt keeps a token of its own.
    assert groups([prompt("abc"), prompt("abc"), prompt("abcd")], prefix_tokens=0) == [Group(3, 0, (0, 1, 2))]


def test_pictures_are_part_of_what_is_alike():
    alike = [prompt(1, "AB", 2, "c"), prompt(1, "AB", 3, "c"), prompt(1, "AB", 2, "d"), prompt(4, "AB", 2, "d")]
    # s I a b e, then the picture that differs; of 0 and 2 it is the same, and c or d follows.
    assert groups(alike, prefix_tokens=0) == [Group(0, 0, (3,)), Group(5, 1, (0, 1, 2))]
    assert groups(alike[::2], prefix_tokens=0) == [Group(6, 2, (0, 1))]
    first, rest = cut(tokenize_prompt(alike[0], TOKENIZER), 5)
    assert (first.tokens.tolist(), first.images) == ([1, 3, 5, 6, 4], 1)
    assert (rest.tokens.tolist(), rest.media_number.tolist(), rest.images) == ([3, 7], [1, 1], 1)
    first, rest = cut(tokenize_prompt(alike[0], TOKENIZER), 3)
    assert (rest.media_number.tolist(), rest.images) == ([0, 0, 1, 1], 1)


def test_tokens_of_one_picture_stay_together():
    texts = [tokenize_prompt(one, TOKENIZER) for one in (prompt("a", 1, "b"), prompt("a", 1, "c"), prompt("a", 1))]

    def wide(text):
        repeats = np.where(text.tokens == 3, 3, 1)
        return text._replace(**{n: np.repeat(getattr(text, n), repeats) for n in ("tokens", "loss", "media_number")})

    media = [[picture(1)]] * 3
    assert every_group([wide(text) for text in texts[:2]], media[:2], prefix_tokens=0) == [Group(5, 1, (0, 1))]
    assert every_group([wide(text) for text in texts], media, prefix_tokens=2) == [Group(2, 0, (0, 1, 2))]


SHOTS = (1, "DAX", 2, "WUG", 3, "BLICK")
PROMPTS = [
    *(prompt(*SHOTS, number, "is" + "a" * (number % 3)) for number in range(4, 10)),
    # What follows looks at a picture of the beginning first.
    *(prompt(1, "DAX", 2, "what" * 3 + letter, 5, "is") for letter in "xyz"),
    prompt("alone"),
]
ANSWERS = [[Text("dax", end_of_chunk=True), Text("w"), Text("zzzzz")][: 1 + n % 3] for n in range(len(PROMPTS))]


def noted(monkeypatch):
    """A list of the shapes of the beginnings whose reading is compiled from now on."""
    read, original = [], beginnings.read_prefix

    def note(writer, params, prefix, *more):
        read.append(prefix.tokens.shape)
        return original(writer, params, prefix, *more)

    monkeypatch.setattr(beginnings, "read_prefix", note)
    return read


@pytest.mark.parametrize("settings", [{}, {"positions": "learned", "max_length": 64}, {"windows": (3, None)}])
def test_scores_are_the_same(settings, monkeypatch):
    model = tiny_model(**settings)
    params, read = flamingo_parameters(model), []
    original = beginnings.read_prefix
    monkeypatch.setattr(
        beginnings, "read_prefix", lambda *given: read.append(given[2].tokens.shape) or original(*given)
    )
    apart = score_continuations(model, params, TOKENIZER, PROMPTS, ANSWERS, share=False)
    assert not read
    monkeypatch.setattr(scoring, "plan_groups", every_group)
    together = score_continuations(model, params, TOKENIZER, PROMPTS, ANSWERS)
    assert sorted(read)[0][0] == 1 and len(read) == 2  # two shapes of beginnings
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(one.log_likelihoods, other.log_likelihoods, rtol=1e-5, atol=1e-5)
        assert [x.tolist() for x in one.greedy_tokens] == [x.tolist() for x in other.greedy_tokens]


def test_other_beginnings_of_the_same_bucket_are_no_other_programs(monkeypatch):
    monkeypatch.setattr(scoring, "plan_groups", every_group)
    model = tiny_model(layers=1)
    params = flamingo_parameters(model)

    def programs(shots, answers):
        prompts = [prompt(*shots, number, "is") for number in range(20, 26)]
        score_continuations(model, params, TOKENIZER, prompts, [[Text(text) for text in answers]] * 6)
        return [function._cache_size() for function in (scoring._score, beginnings._read)]

    before = programs(("abcdef" * 3, 1, "DAX"), ("a", "bc"))
    assert before[1] > 0
    assert programs(("bcdefg" * 3, 2, "NEW"), ("c", "da")) == before
    assert programs(("abc" * 5, 3, "TWO"), ("cd", "e")) == before


TEXT_SETTINGS = [{}, {"stop": ("b",)}, {"beams": Beams(3)}, {"choices": ("bead", "fee", "dad", "cab", "ace")}]


@pytest.mark.parametrize("settings", TEXT_SETTINGS)
def test_texts_are_the_same(settings):
    """After a beginning with three pictures, which was read before."""
    model = tiny_model()
    params, prompts = flamingo_parameters(model), PROMPTS[:6]
    read = [tokenize_prompt(one, TOKENIZER) for one in prompts]
    [group] = [group for group in every_group(read, [one.media for one in prompts]) if group.length]
    assert group.pictures == 3 and len(group.members) == 6
    beginning = read_beginning(
        model, params, TOKENIZER, cut(read[0], group.length)[0], prompts[0].media[:3], length=32, mesh=None
    )
    asked = {"max_tokens": 6, **settings}
    apart = generate(model, params, TOKENIZER, prompts, **asked)
    together = generate(model, params, TOKENIZER, prompts, beginning=beginning, **asked)
    assert len({one.text for one in apart}) > 1
    for one, other in zip(apart, together, strict=True):
        assert (one.text, one.tokens.tolist(), one.choice) == (other.text, other.tokens.tolist(), other.choice)
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="penalties count all of a prompt"):
        generate(model, params, TOKENIZER, prompts, beginning=beginning, sampling=Sampling(no_repeat_ngram=2))


def test_an_evaluated_run_reads_demonstrations_once(monkeypatch):
    model, read = tiny_model(), []
    params = flamingo_parameters(model)
    original = beginnings.read_prefix
    monkeypatch.setattr(
        beginnings, "read_prefix", lambda *given: read.append(given[2].tokens.shape) or original(*given)
    )
    monkeypatch.setattr(run, "plan_groups", every_group)
    told = RunModel(model, params, TOKENIZER).write(
        PROMPTS, max_tokens=6, stop=("b",), beams=1, progress=lambda n: None
    )
    assert len(read) == 1  # one shape
    apart = [generate(model, params, TOKENIZER, [one], max_tokens=6, stop=("b",))[0].text for one in PROMPTS]
    assert told == apart and len(set(told)) > 2


@functools.partial(quick_jit, static_argnums=0)
def write(writer, params, opening):
    output = begin(writer, params, opening, spare=NEW)

    def step(state, number):
        cache, token = state
        output = go_on(writer, params, cache, opening, token[:, None], token[:, None] >= 0, number)
        return (output.cache, output.logits()[:, 0].argmax(-1).astype(token.dtype)), token

    first = output.logits()[:, 0].argmax(-1).astype(opening.tokens.dtype)
    return jax.lax.scan(step, (output.cache, first), np.arange(NEW, dtype=np.int32))[1].T


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_the_same(name):
    config, random = CONFIGS[name], np.random.default_rng(2)
    params = random_parameters(config)
    writer = Writer(config, None, 0, Decode(Decoder(config), "__call__"))
    common, rests = random.integers(1, 32, 45), [random.integers(1, 32, length) for length in (1, 30, 7)]
    whole = write(writer, params, opened([np.concatenate([common, rest]) for rest in rests], "left", 75))
    known = quick_jit(lambda given, opening: share(writer, given, opening)[1])(params, opened([common], "right", 48))
    told = write(going_on(writer), known, opened(rests, "right", 30))
    assert np.array_equal(told, whole) and len(np.unique(whole)) > NEW


def test_what_cannot_be_shared():
    config = CONFIGS["alibi"]
    writer = Writer(config, None, 0, Decode(Decoder(config), "__call__"))
    with pytest.raises(InputError, match="one row that all others begin with, not 2"):
        share(writer, {}, opened([[1], [2]], "left", 1))
