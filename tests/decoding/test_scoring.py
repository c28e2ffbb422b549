"""Scores of given continuations: those of plain forward passes, with the prompt read once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Text
from mmjax.decoding import scoring
from mmjax.decoding.generate import generate
from mmjax.decoding.scoring import score_continuations
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.decoding.tiny_models import (
    LetterTokenizer,
    log_softmax,
    random_parameters,
    random_prompt,
    tiny_model,
    uncached_logits,
)

MODEL, TOKENIZER = tiny_model(), LetterTokenizer()
PROMPTS = [random_prompt(seed, chunks=1 + seed % 3, letters=1 + seed % 4) for seed in range(9)]
ANSWERS = [
    [Text("dax", end_of_chunk=True), Text("w"), Text("zzzzz")][: 1 + number % 3] for number in range(len(PROMPTS))
]


@pytest.fixture(scope="module")
def params():
    return random_parameters(MODEL)


def score(params, prompts, answers, **settings):
    return score_continuations(MODEL, params, TOKENIZER, prompts, answers, **settings)


def test_scores_are_those_of_plain_forward_passes(params):
    done = []
    scored = score(params, PROMPTS, ANSWERS, on_scored=done.append)
    assert sum(done) == len(PROMPTS)
    for prompt, answers, scores in zip(PROMPTS, ANSWERS, scored, strict=True):
        assert len(scores.log_likelihoods) == len(answers)
        for number, answer in enumerate(answers):
            tokens = TOKENIZER.encode(answer.text) + [4] * answer.end_of_chunk
            told = uncached_logits(MODEL, params, TOKENIZER, prompt, tokens)[-len(tokens) - 1 : -1]
            expected = log_softmax(told)[np.arange(len(tokens)), tokens].sum()
            np.testing.assert_allclose(scores.log_likelihoods[number], expected, rtol=1e-5, atol=1e-5)
            assert scores.tokens[number].tolist() == tokens
        assert scores.best == scores.log_likelihoods.argmax()


def test_scores_do_not_depend_on_the_batch_or_the_mesh(params, monkeypatch):
    together = score(params, PROMPTS, ANSWERS)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    backwards = score(params, PROMPTS[::-1], ANSWERS[::-1], batch_tokens=64, mesh=mesh)[::-1]
    monkeypatch.setattr(scoring, "PICTURE_BYTES", 1)  # every batch is a block of its own
    monkeypatch.setattr(scoring, "PROGRAM_TOKENS", 1)
    apart = score(params, PROMPTS, ANSWERS, batch_tokens=64)
    for other in (backwards, apart):
        for left, right in zip(together, other, strict=True):
            np.testing.assert_allclose(left.log_likelihoods, right.log_likelihoods, rtol=1e-5, atol=1e-5)


def test_an_answer_is_greedy_where_greedy_decoding_writes_it(params):
    written = generate(MODEL, params, TOKENIZER, PROMPTS, max_tokens=3)
    whole = [number for number, one in enumerate(written) if len(one.text) == 3]  # not ended early
    assert len(whole) > len(PROMPTS) / 2
    answers = []
    for number in whole:
        text = written[number].text
        changed = text[:-1] + ("a" if text[-1:] != "a" else "b")
        answers.append([Text(text), Text(changed), Text(text[:1])])
    scored = score(params, [PROMPTS[number] for number in whole], answers)
    for one, scores in zip([written[number] for number in whole], scored, strict=True):
        assert [scores.is_greedy(number) for number in range(3)] == [True, False, True]
        # Up to the first token that differs, what is known of greedy decoding is right.
        assert scores.greedy_tokens[1].tolist() == one.tokens.tolist()


def test_a_prompt_is_read_once_however_many_answers_it_has(params, monkeypatch):
    read, more = [], []

    def watch(name, noted):
        original = getattr(scoring, name)

        def watched(*arguments, **settings):
            jax.debug.callback(lambda: noted.append(1))
            return original(*arguments, **settings)

        monkeypatch.setattr(scoring, name, watched)

    watch("begin", read)
    watch("go_on", more)
    jax.clear_caches()
    score(params, PROMPTS[:1], [[Text(letter) for letter in "abcde"]])
    jax.effects_barrier()
    jax.clear_caches()
    assert (len(read), len(more)) == (1, 5)


def test_what_cannot_be_scored(params):
    assert score(params, [], []) == []
    with pytest.raises(InputError, match="at least one continuation"):
        score(params, PROMPTS[:1], [[]])
    with pytest.raises(InputError, match="may be empty"):
        score(params, PROMPTS[:1], [[Text("")]])
    short = tiny_model(positions="learned", max_length=8)
    with pytest.raises(InputError, match="the model has 8 positions"):
        score_continuations(short, {}, TOKENIZER, PROMPTS, ANSWERS)


def test_half_precision_is_near(params):
    half = tiny_model().clone(dtype=jnp.bfloat16)
    exact, near = score(params, PROMPTS, ANSWERS), score_continuations(half, params, TOKENIZER, PROMPTS, ANSWERS)
    for one, other in zip(exact, near, strict=True):
        assert other.log_likelihoods.dtype == np.float32
        np.testing.assert_allclose(one.log_likelihoods, other.log_likelihoods, rtol=0.1, atol=0.3)
    assert all(generate(half, params, TOKENIZER, PROMPTS[:2], max_tokens=3))
