"""Generation: the tokens of a plain loop without a cache, row by row, in programs that are compiled once."""

import jax
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Text
from mmjax.decoding import loop, pictures
from mmjax.decoding.generate import generate
from mmjax.decoding.logits import writable_tokens
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.sampling import Sampling
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.decoding.tiny_models import (
    VOCABULARY,
    LetterTokenizer,
    log_softmax,
    random_parameters,
    random_prompt,
    tiny_model,
    uncached_logits,
)

MODEL = tiny_model()
PROMPTS = [random_prompt(1, chunks=3), random_prompt(2, chunks=1), Prompt((Text("abc"),))]


@pytest.fixture(scope="module")
def params():
    return random_parameters(MODEL)


def plain_greedy(params, tokenizer, prompt, most):
    """Tokens and their log-probabilities, each by a whole forward pass without a cache."""
    writable = writable_tokens(tokenizer, VOCABULARY)
    stops = {tokenizer.special["eos"], tokenizer.special["end_of_chunk"]}
    tokens, likelihoods = [], []
    while len(tokens) < most and not stops.intersection(tokens):
        scores = uncached_logits(MODEL, params, tokenizer, prompt, tokens)[-1]
        tokens.append(int(np.where(writable, scores, -np.inf).argmax()))
        likelihoods.append(log_softmax(scores)[tokens[-1]])
    return tokens, likelihoods


def test_greedy_is_the_plain_loop(params):
    tokenizer = LetterTokenizer()
    written = generate(MODEL, params, tokenizer, PROMPTS, max_tokens=7)
    for prompt, one in zip(PROMPTS, written, strict=True):
        tokens, likelihoods = plain_greedy(params, tokenizer, prompt, 7)
        assert one.tokens.tolist() == tokens
        np.testing.assert_allclose(one.log_probabilities, likelihoods, atol=1e-5)
        assert one.text == tokenizer.decode(tokens)
        assert one.ended_by == "length" or len(one.tokens) < 8
    assert len({one.text for one in written}) == len(PROMPTS)


def test_a_row_ends_where_its_chunk_does(params):
    free = generate(MODEL, params, LetterTokenizer(), PROMPTS, max_tokens=7)[2]
    ends = next(letter for letter in free.text[2:] if letter not in free.text[:2])
    tokenizer = LetterTokenizer(ends)
    written = generate(MODEL, params, tokenizer, PROMPTS, max_tokens=7)[2]
    assert written.tokens.tolist() == plain_greedy(params, tokenizer, PROMPTS[2], 7)[0]
    assert (free.ended_by, written.ended_by) == ("length", "end_of_chunk")
    assert written.text == free.text[: free.text.index(ends)]
    assert len(written.log_probabilities) == len(written.tokens) == len(written.text) + 1


def test_only_letters_and_ends_are_written(params):
    writable = writable_tokens(LetterTokenizer(), VOCABULARY)
    np.testing.assert_array_equal(np.flatnonzero(~writable), [0, 1, 3, 31])
    hot = generate(MODEL, params, LetterTokenizer(), PROMPTS, max_tokens=16, sampling=Sampling(temperature=50.0))
    tokens = np.concatenate([one.tokens for one in hot])
    assert writable[tokens].all() and len(set(tokens.tolist())) > 10


def test_draws_repeat_by_seed_and_do_not_depend_on_the_batch(params):
    tokenizer = LetterTokenizer()

    def draw(prompts, seed):
        sampling = Sampling(temperature=1.5, top_k=8, top_p=0.95, seed=seed)
        written = generate(MODEL, params, tokenizer, prompts, max_tokens=7, sampling=sampling)
        return [one.tokens.tolist() for one in written]

    three = draw(PROMPTS, 1)
    assert three == draw(PROMPTS, 1)
    assert three != draw(PROMPTS, 2)
    assert three[:1] == draw([PROMPTS[0], PROMPTS[2], PROMPTS[1]], 1)[:1]


def test_prompts_of_one_bucket_share_their_programs(params):
    def programs():
        return [function._cache_size() for function in (loop._open, loop._go, pictures._encode)]

    def write(letters, most, **sampling):
        prompts = [random_prompt(letters, chunks=3, letters=letters), random_prompt(letters + 1, chunks=2)]
        return generate(MODEL, params, LetterTokenizer(), prompts, max_tokens=most, sampling=Sampling(**sampling))

    compiled = []
    jax.clear_caches()
    write(4, 7)
    first = programs()
    assert first == [1, 1, 1]
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        for letters, most in ((1, 1), (2, 9), (7, 16), (8, 3)):
            write(letters, most)
    finally:
        jax.monitoring.clear_event_listeners()
    assert programs() == first
    assert not [name for name in compiled if "backend_compile" in name]
    write(4, 17)  # the next bucket
    assert programs() == [2, 2, 1]
    for temperature in (0.5, 1.0, 2.0):
        write(4, 7, temperature=temperature, seed=int(2 * temperature))
    assert programs() == [3, 3, 1]


def test_a_mesh_writes_the_same(params):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    alone = generate(MODEL, params, LetterTokenizer(), PROMPTS, max_tokens=7)
    shared = generate(MODEL, params, LetterTokenizer(), PROMPTS, max_tokens=7, mesh=mesh)
    assert [one.text for one in shared] == [one.text for one in alone]


def test_what_cannot_be_written(params):
    with pytest.raises(InputError, match="max_tokens"):
        generate(MODEL, params, LetterTokenizer(), PROMPTS, max_tokens=0)
    with pytest.raises(InputError, match="needs a prompt"):
        generate(MODEL, params, LetterTokenizer(), [])
    short = tiny_model(positions="learned", max_length=20)
    with pytest.raises(InputError, match="the model has 20 positions"):
        generate(short, {}, LetterTokenizer(), PROMPTS, max_tokens=4)
