"""Speculative decoding: the target's greedy tokens whatever the draft, and its distribution when tokens are drawn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.decoding.generate import generate
from mmjax.decoding.loop import Rules, open_writing, write_on
from mmjax.decoding.readers import RunReader
from mmjax.decoding.sampling import Sampling, make_draw
from mmjax.decoding.speculative import Side, speculate, write_with_draft
from mmjax.decoding.writer import Decode, Opening, Writer
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder
from mmjax.parallel.sharding import abstract_parameters
from tests.decoding.tiny_models import LetterTokenizer, random_parameters, random_prompt, tiny_model

pytestmark = pytest.mark.usefixtures("quick_programs")

V, MOST = 24, 24
CONFIG = DecoderConfig(V, 16, 2, 4, 8, 32, kv_heads=2, tied_embeddings=False)


def parameters(config, seed, scale=0.4):
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes, _ = abstract_parameters(Decoder(config).init, jax.random.key(0), tokens, tokens, tokens)
    random = np.random.default_rng(seed)
    return {
        path: jnp.asarray(float(path.endswith("scale")) + scale * random.normal(size=shape.shape), jnp.float32)
        for path, shape in sorted(shapes.items())
    }


@functools.cache
def target(config=CONFIG):
    return parameters(config, 0)


def near(config, noise):
    """Parameters near the target's: a draft of which some proposals stay."""
    random = np.random.default_rng(1)
    return {path: x + noise * random.normal(size=x.shape).astype(np.float32) for path, x in target(config).items()}


def opening(rows, length=6):
    """Prompts of different lengths, padded on the right."""
    random = np.random.default_rng(5)
    lengths = random.integers(1, length + 1, rows).astype(np.int32)
    places = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    there = places < lengths[:, None]
    tokens = np.where(there, random.integers(3, V, (rows, length)), 0).astype(np.int32)
    arrays = (tokens, np.where(there, places, 0), there.astype(np.int32))
    return Opening(*map(jnp.asarray, arrays), {}, {}, jnp.asarray(lengths), jnp.asarray(lengths), jnp.asarray(tokens))


def side(params, config=CONFIG, rows=6, prompts=None):
    writer = Writer(config, None, 0, Decode(Decoder(config), "__call__"))
    return Side(writer, params, opening(rows) if prompts is None else prompts)


def rules(rows, sampling=Sampling(), ends=(), limits=None):  # noqa: B008 (frozen)
    return Rules(
        writable=jnp.arange(V) >= 3,
        ends=jnp.isin(jnp.arange(V), jnp.array(ends, jnp.int32)) if ends else jnp.zeros(V, bool),
        limits=jnp.full(rows, MOST, jnp.int32) if limits is None else jnp.asarray(limits, jnp.int32),
        draw=jax.tree.map(jnp.asarray, make_draw(sampling, rows)),
    )


def alone(params, asked, config=CONFIG, rows=6):
    model = side(params, config, rows)
    writing = open_writing(model.writer, params, model.opening, asked, room=MOST)
    return write_on(model.writer, params, writing, asked, steps=MOST).read()


def check_same(speculated, expected):
    np.testing.assert_array_equal(speculated.texts.lengths, expected.lengths)
    for row, length in enumerate(expected.lengths):
        np.testing.assert_array_equal(speculated.texts.tokens[row, :length], expected.tokens[row, :length])
        ours, own = (x.log_probabilities[row, :length] for x in (speculated.texts, expected))
        np.testing.assert_allclose(ours, own, atol=1e-5)


@pytest.mark.parametrize("kind", ["identical", "good", "bad"])
def test_greedy_tokens_are_those_of_the_target(kind):
    params = {"identical": target(), "good": near(CONFIG, 0.03), "bad": parameters(CONFIG, 7)}[kind]
    # After an end, what was proposed does not stay, whoever proposed it.
    asked = rules(6, ends=() if kind == "identical" else (5, 9), limits=[MOST, 1, 3, MOST, 7, MOST])
    expected = alone(target(), asked)
    assert len(set(expected.lengths.tolist())) > 3
    speculated = speculate(side(target()), side(params), asked, most=MOST, width=4)
    check_same(speculated, expected)
    # Every round gives a token of the target's own besides those that stay, but for a last one that fills the row.
    tokens = speculated.accepted + speculated.rounds + 1
    assert np.all((tokens == expected.lengths) | (tokens == expected.lengths + 1))
    share = speculated.accepted.sum() / max(1, speculated.proposed.sum())
    assert {"identical": share == 1.0, "good": 0.3 < share < 1.0, "bad": share < 0.3}[kind]
    if kind == "good":
        assert len(set((speculated.accepted / np.maximum(speculated.rounds, 1)).tolist())) > 2


def test_a_draft_of_another_size_and_penalties():
    small = dataclasses.replace(CONFIG, width=8, layers=1, heads=2, kv_heads=1, mlp_width=16)
    asked = rules(6, Sampling(repetition_penalty=1.5, no_repeat_ngram=3, min_tokens=6), ends=(5, 9))
    expected = alone(target(), asked)
    speculated = speculate(side(target()), side(parameters(small, 3), small), asked, most=MOST, width=2)
    check_same(speculated, expected)


def test_windows_take_back_what_was_refused():
    """Rings of keys are written over by proposals that do not stay."""
    config = dataclasses.replace(CONFIG, windows=(4, None))
    asked = rules(6)
    expected = alone(target(config), asked, config)
    for params in (near(config, 0.03), parameters(config, 7)):
        check_same(speculate(side(target(config), config), side(params, config), asked, most=MOST, width=4), expected)


def test_drawn_tokens_have_the_distribution_of_the_target():
    """Three tokens of 4,096 rows of one prompt, against the target's own probabilities of each sequence."""
    rows, most, kept = 4096, 3, (3, 4, 5)
    config = dataclasses.replace(CONFIG, layers=1)
    one = opening(6)
    prompts = jax.tree.map(lambda x: jnp.repeat(x[2:3], rows, axis=0), one)
    asked = rules(rows, Sampling(temperature=1.3, top_p=0.95, seed=11), limits=[most] * rows)
    asked = asked.replace(writable=jnp.isin(jnp.arange(V), jnp.array(kept)))
    params, draft = parameters(config, 0, 0.25), parameters(config, 7, 0.25)
    speculated = speculate(
        side(params, config, prompts=prompts), side(draft, config, prompts=prompts), asked, most=most, width=2
    )
    assert 0.2 < speculated.accepted.sum() / speculated.proposed.sum() < 0.95
    counts = np.zeros((len(kept),) * most)
    np.add.at(counts, tuple(speculated.texts.tokens[:, :most].T - kept[0]), 1)
    expected = exact(params, config, one, asked, most, kept)
    assert np.all(counts[expected == 0] == 0)
    there = expected > 0
    chi_squared = np.sum((counts[there] - rows * expected[there]) ** 2 / (rows * expected[there]))
    freedom = there.sum() - 1
    assert freedom > 8 and chi_squared < freedom + 4 * np.sqrt(2 * freedom)
    # The draft alone would not pass.
    wrong = exact(draft, config, one, asked, most, kept)
    assert np.sum((counts[there] - rows * wrong[there]) ** 2 / (rows * expected[there])) > 2 * chi_squared + 100


def exact(params, config, prompts, asked, most, kept):
    """Probability of every sequence of `kept` tokens after the prompt, by plain forward passes in numpy's float64."""
    start = np.asarray(prompts.tokens[2, : int(prompts.next_place[2])])
    draw = asked.draw
    probabilities = np.zeros((len(kept),) * most)
    for index in np.ndindex(probabilities.shape):
        tokens = np.concatenate([start, [kept[number] for number in index]]).astype(np.int32)[None]
        places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        output = _forward(config, params, jnp.asarray(tokens), places)
        scores = np.asarray(output, np.float64)[0, len(start) - 1 : -1][:, list(kept)] / float(draw.temperature[0])
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        order = np.argsort(-p, axis=-1)
        before = np.take_along_axis(p, order, -1).cumsum(-1) - np.take_along_axis(p, order, -1)
        out = np.zeros(p.shape, bool)
        np.put_along_axis(out, order, before >= float(draw.top_p[0]), -1)
        p = np.where(out, 0, p)
        p /= p.sum(-1, keepdims=True)
        probabilities[index] = np.prod(p[range(most), index])
    np.testing.assert_allclose(probabilities.sum(), 1, atol=1e-6)
    return probabilities


@functools.partial(jax.jit, static_argnames="config")
def _forward(config, params, tokens, places):
    return Decode(Decoder(config), "__call__")(params, tokens, places, jnp.ones_like(tokens)).logits()


def test_a_prompt_with_pictures_is_continued_with_a_draft():
    """A draft that looks at pictures of its own size, and stop strings."""
    tokenizer, prompt = LetterTokenizer(), random_prompt(1, chunks=2)
    models = [tiny_model(), tiny_model(layers=4)]
    model, draft = (RunReader(one, random_parameters(one), tokenizer, most_pictures=2) for one in models)
    [own] = generate(models[0], model.parameters, tokenizer, [prompt], max_tokens=12)
    drafted = write_with_draft(model, draft, (prompt, prompt), max_tokens=12, width=3)
    assert (drafted.text, drafted.ended_by) == (own.text, own.ended_by)
    np.testing.assert_array_equal(drafted.tokens, own.tokens)
    np.testing.assert_allclose(drafted.log_probabilities, own.log_probabilities, atol=1e-5)
    assert drafted.passes >= len(own.tokens) / 4 and 0 <= drafted.accepted <= drafted.proposed <= 3 * drafted.passes
    itself = write_with_draft(model, model, (prompt, prompt), max_tokens=12, width=3, stop=(own.text[4:6],))
    assert itself.text == own.text[: own.text.index(own.text[4:6])] and itself.ended_by == "stop"
    assert tokenizer.decode(itself.tokens) == own.text[: own.text.index(own.text[4:6]) + 2]
    assert itself.accepted == itself.proposed and itself.passes == 3
    with pytest.raises(InputError, match="max_tokens"):
        write_with_draft(model, draft, (prompt, prompt), max_tokens=0)


def test_what_does_not_go_together():
    other = dataclasses.replace(CONFIG, vocab_size=V + 8)
    with pytest.raises(InputError, match="vocabulary of 32 tokens and the model one of 24"):
        speculate(side(target()), side(parameters(other, 0), other), rules(6), most=4)
    with pytest.raises(InputError, match="from 1 to 15 tokens a round, not 0"):
        speculate(side(target()), side(target()), rules(6), most=4, width=0)
