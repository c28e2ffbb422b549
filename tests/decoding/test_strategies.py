"""Stop strings, samples, beams and given answers, on prompts of runs, beside plain loops without a cache."""

import itertools

import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Text
from mmjax.decoding import beams as searching
from mmjax.decoding.beams import Beams
from mmjax.decoding.generate import generate
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.sampling import Sampling
from mmjax.decoding.stops import StopStrings
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.decoding.tiny_models import (
    LetterTokenizer,
    log_softmax,
    random_parameters,
    random_prompt,
    tiny_model,
    uncached_logits,
)

pytestmark = pytest.mark.usefixtures("quick_programs")

MODEL, TOKENIZER = tiny_model(), LetterTokenizer()
PROMPTS = [random_prompt(1, chunks=2), random_prompt(2, chunks=1), Prompt((Text("abc"),))]
ENDS = (TOKENIZER.special["eos"], TOKENIZER.special["end_of_chunk"])


@pytest.fixture(scope="module")
def params():
    return random_parameters(MODEL)


@pytest.fixture(scope="module")
def write(params):
    def run(prompts=PROMPTS, max_tokens=14, **asked):
        return generate(MODEL, params, TOKENIZER, prompts, max_tokens=max_tokens, **asked)

    return run


@pytest.fixture(scope="module")
def free(write):
    return write()


@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_text_ends_before_a_stop_string(write, free, place):
    """Rows without it go on; two tokens make up the string, and a look at the text comes every eight."""
    stop = free[0].text[place : place + 2]
    written = write(stop=[stop, "a string that is never written"])
    for one, other in zip(written, free, strict=True):
        at = other.text.find(stop)
        if at < 0:
            assert one.tokens.tolist() == other.tokens.tolist() and one.text == other.text
        else:
            assert (one.text, one.ended_by) == (other.text[:at], "stop")
            assert one.tokens.tolist() == other.tokens[: at + 2].tolist()
            assert len(one.log_probabilities) == at + 2
    assert written[0].ended_by == "stop"


def test_the_first_of_several_stop_strings_counts():
    stops = StopStrings(("lo w", "wor"), lambda tokens: "".join(map(chr, tokens)))
    tokens = np.frombuffer(b"hello world", np.uint8)
    assert (stops.completed(tokens, 0), stops.cut("hello world")) == (7, "hel")
    assert stops.completed(tokens[:6], 0) is None and stops.cut("hello") == "hello"


def test_samples_of_each_prompt(write):
    sampling = Sampling(1.5, top_k=12, seed=2)
    three = write(samples=3, sampling=sampling)
    assert len(three) == 9 and len({one.text for one in three}) >= 8
    again = write(samples=3, sampling=sampling, prompts=[PROMPTS[0], PROMPTS[2], PROMPTS[1]])
    assert [one.text for one in again[:3]] == [one.text for one in three[:3]]
    assert [one.text for one in again[3:6]] != [one.text for one in three[6:]]  # other rows draw otherwise


ANSWERS = ("ab", "abc", "x", "xyz")


def rated(params, prompt, answer, end):
    """Log-probabilities of an answer and the token that ends it."""
    tokens = [*TOKENIZER.encode(answer), end]
    scores = log_softmax(uncached_logits(MODEL, params, TOKENIZER, prompt, tokens)[-len(tokens) - 1 : -1])
    return tokens, scores[np.arange(len(tokens)), tokens], scores


def test_one_of_the_given_answers_is_written_greedily(params, write):
    for prompt, one in zip(PROMPTS, write(choices=ANSWERS), strict=True):
        paths = [rated(params, prompt, answer, end) for answer, end in itertools.product(ANSWERS, ENDS)]
        for step, token in enumerate(one.tokens):
            [*left] = [path for path in paths if path[0][:step] == one.tokens[:step].tolist() and len(path[0]) > step]
            assert token == max(left, key=lambda path: path[1][step])[0][step]
        assert ANSWERS[one.choice] == one.text and one.ended_by in ("eos", "end_of_chunk")


def test_beams_that_hold_all_answers_find_the_best(params, write):
    count = len(ANSWERS) * len(ENDS)
    written = write(choices=ANSWERS, beams=Beams(count, length_penalty=0.5, early_stopping="never"), samples=count)
    assert len(written) == count * len(PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        found = written[number * count : (number + 1) * count]
        paths = [rated(params, prompt, answer, end) for answer, end in itertools.product(ANSWERS, ENDS)]
        expected = sorted(paths, key=lambda path: -path[1].sum() / len(path[0]) ** 0.5)
        assert [one.tokens.tolist() for one in found] == [path[0] for path in expected]
        scores = [path[1].sum() / len(path[0]) ** 0.5 for path in expected]
        np.testing.assert_allclose([one.score for one in found], scores, rtol=1e-5)
        np.testing.assert_allclose(found[0].log_probabilities, expected[0][1], atol=1e-5)
        assert all(ANSWERS[one.choice] == one.text for one in found)


def test_beams_share_their_program_and_equal_those_of_a_mesh(params, write):
    sampling = Sampling(repetition_penalty=1.2, no_repeat_ngram=2)
    alone = write(beams=Beams(3), samples=2, sampling=sampling)
    programs = searching._search._cache_size()
    other = Sampling(repetition_penalty=3.0, no_repeat_ngram=1)
    changed = write(beams=Beams(3, length_penalty=3.0), samples=3, sampling=other, max_tokens=12)
    assert searching._search._cache_size() == programs
    assert [one.text for one in changed[::3]] != [one.text for one in alone[::2]]
    shared = generate(
        MODEL,
        params,
        TOKENIZER,
        PROMPTS,
        max_tokens=14,
        beams=Beams(3),
        samples=2,
        sampling=sampling,
        mesh=make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)),
    )
    assert [one.text for one in shared] == [one.text for one in alone]
    assert all(first.score >= second.score for first, second in zip(alone[::2], alone[1::2], strict=True))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"samples": 2}, "greedy decoding has one result"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"beams": Beams(2), "samples": 3}, "of 2 beams there cannot be 3 samples"),
        ({"beams": Beams(2), "stop": ["a"]}, "leave them or beams out"),
        ({"beams": Beams(2), "sampling": Sampling(1.0)}, "leave temperature or beams out"),
        ({"choices": ["a"], "stop": ["a"]}, "an answer is written as it is given"),
        ({"choices": ["a", ""]}, "none may be empty"),
        ({"stop": [""]}, "at least one character"),
    ],
)
def test_what_does_not_go_together(write, asked, message):
    with pytest.raises(InputError, match=message):
        write(**asked)


@pytest.mark.parametrize(
    "wrong", [{"count": 1}, {"count": 2, "early_stopping": "soon"}, {"count": 2, "length_penalty": np.nan}]
)
def test_beams_that_cannot_be(wrong):
    with pytest.raises(InputError):
        Beams(**{"count": 2, **wrong})
