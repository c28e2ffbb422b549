"""Speculative decoding: a small model proposes a few tokens, the large one reads them in one go and keeps a beginning.

    round   the draft writes        d1 d2 d3 d4             one after the other
            the target reads      t d1 d2 d3 d4             at once, and says what it would have written after each
            its choices            d1 d2 x  .  .            d1 and d2 stay, x is the target's own: 3 tokens for one pass

Greedy tokens are those that the target writes alone. Drawn ones have its distribution: a proposal stays with
probability min(1, p/q), else the token is drawn from what p has over q (Leviathan et al. 2023, algorithm 1). p and q
are the distributions after penalties, temperature and filters.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import InputError
from mmjax.decoding.loop import Rules, Texts, Writing, advance_trail, choosable, open_writing, without_prompt
from mmjax.decoding.readers import Reader
from mmjax.decoding.rows import NEW_BUCKET, PROMPT_BUCKET, bucket, check_lengths
from mmjax.decoding.sampling import Sampling, make_draw, tempered_scores
from mmjax.decoding.streaming import TextStream
from mmjax.decoding.writer import Opening, Writer, at_hand, begin, go_on
from mmjax.models.decoders.cache import SLACK, DecoderCache
from mmjax.parallel.sharding import current_mesh, use_mesh

# What a row's random numbers of one token are for.
_PROPOSE, _ACCEPT, _REPLACE = 1, 2, 3


class Side(NamedTuple):
    """One of the two models, with the prompts as it reads them."""

    writer: Writer
    parameters: Mapping[str, Array]
    opening: Opening


class Speculated(NamedTuple):
    """What was written. Of each row: how often the target read proposals, how many these were, and how many stayed."""

    texts: Texts
    rounds: Int[np.ndarray, "B"]
    proposed: Int[np.ndarray, "B"]
    accepted: Int[np.ndarray, "B"]


@flax.struct.dataclass
class _State:
    writing: Writing
    draft_cache: DecoderCache
    draft_opening: Opening
    rounds: Int[Array, "B"]
    proposed: Int[Array, "B"]
    accepted: Int[Array, "B"]


@flax.struct.dataclass
class _Proposals:
    """Tokens, and the scores that each was drawn from (None where all rows are greedy)."""

    tokens: Int[Array, "B K"]
    scores: Float[Array, "B K V"] | None


def speculate(target: Side, draft: Side, rules: Rules, *, most: int, width: int = 4) -> Speculated:
    """Writes at most `most` tokens after each prompt; the draft proposes `width` tokens a round.

    Both openings are of the same prompts, row for row. Rules with answers are followed too.

    Raises:
      InputError: the two models have different vocabularies, or width is not from 1 to `SLACK` - 1.
    """
    if not 0 < width < SLACK:
        raise InputError(f"a draft must propose from 1 to {SLACK - 1} tokens a round, not {width}")
    sizes = [side.writer.decoder.vocab_size for side in (target, draft)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"the draft has a vocabulary of {sizes[1]} tokens and the model one of {sizes[0]}; take a draft with the "
            "same tokenizer"
        )
    writers, parameters, openings = zip(target, draft, strict=True)
    state = _speculate(writers, current_mesh(), most, width, parameters, openings, rules)
    return Speculated(state.writing.read(), *jax.device_get((state.rounds, state.proposed, state.accepted)))


@functools.partial(jax.jit, static_argnames=("writers", "mesh", "most", "width"))
def _speculate(writers, mesh: Mesh | None, most: int, width: int, parameters, openings, rules: Rules) -> _State:
    # The last round may propose more than there is room for.
    room = most + width
    with use_mesh(mesh):
        writing = open_writing(writers[0], parameters[0], openings[0], rules, room=room)
        cache = begin(writers[1], parameters[1], openings[1], spare=room).cache
        none = jnp.zeros_like(writing.token)
        state = _State(writing, cache, without_prompt(openings[1]), none, none, none)

        def advance(state: _State) -> _State:
            proposals, cache = _propose(writers[1], parameters[1], state, rules, width)
            return _verify(writers[0], parameters[0], state.replace(draft_cache=cache), proposals, rules)

        return jax.lax.while_loop(lambda state: ~jnp.all(state.writing.done), advance, state)


def _propose(writer: Writer, parameters, state: _State, rules: Rules, width: int) -> tuple[_Proposals, DecoderCache]:
    """What the draft writes after the last token; it reads its own last proposal too, which may stay."""
    writing = state.writing

    def step(carry, number):
        cache, trail, token = carry
        read = writing.lengths - 1 + number
        here = _worth_reading(writing, rules, read)
        output = go_on(writer, parameters, cache, state.draft_opening, token[:, None], here[:, None], read)
        scores = choosable(output.logits()[:, -1], rules, trail, read + 1)
        proposal = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        if rules.draw.sampled:
            scores = tempered_scores(scores, rules.draw)
            drawn = jax.vmap(jax.random.categorical)(_keys(rules, read + 1, _PROPOSE), scores).astype(jnp.int32)
            proposal = jnp.where(rules.draw.temperature > 0.0, drawn, proposal)
        trail = advance_trail(trail, rules, proposal, here)
        return (output.cache, trail, proposal), (proposal, scores if rules.draw.sampled else None)

    start = (state.draft_cache, writing.trail, writing.token)
    (cache, _, _), (tokens, scores) = jax.lax.scan(step, start, jnp.arange(width + 1, dtype=jnp.int32))
    scores = None if scores is None else jnp.moveaxis(scores[:width], 0, 1)
    return _Proposals(tokens[:width].T, scores), cache


def _verify(writer: Writer, parameters, state: _State, proposals: _Proposals, rules: Rules) -> _State:
    """The target reads the last token and the proposals, and each row goes on as far as they stay, and one further.

    What is in the cache of proposals that did not stay is hidden, being later than all that looks, until the next round
    writes over it.
    """
    writing, width = state.writing, proposals.tokens.shape[1]
    here = ~writing.done
    numbers = jnp.arange(width + 1, dtype=jnp.int32)[None]
    read = writing.lengths[:, None] - 1 + numbers
    tokens = jnp.concatenate([writing.token[:, None], proposals.tokens], axis=1)
    present = jax.vmap(_worth_reading, (None, None, 1), 1)(writing, rules, read)
    output = go_on(writer, parameters, writing.cache, writing.opening, tokens, present, writing.lengths - 1)
    scores = output.logits()
    writing, going, accepted = writing.replace(cache=output.cache), here, jnp.zeros_like(writing.token)
    for number in range(width + 1):
        last = number == width
        proposal = None if last else proposals.tokens[:, number]
        drawn_from = None if last or proposals.scores is None else proposals.scores[:, number]
        own = choosable(scores[:, number], rules, writing.trail, writing.lengths)
        token = _settle(own, proposal, drawn_from, rules, writing.lengths)
        writing = _note(writing, rules, going, token, scores[:, number])
        if not last:
            kept = going & (token == proposal)
            accepted += kept.astype(jnp.int32)
            going = kept & ~writing.done
    # A proposal counts where the token that it is for may still be written.
    asked = jnp.sum(present[:, :width], axis=1, dtype=jnp.int32)
    return state.replace(
        writing=writing,
        rounds=state.rounds + here.astype(jnp.int32),
        proposed=state.proposed + asked,
        accepted=state.accepted + accepted,
    )


def _settle(scores, proposal, drawn_from, rules: Rules, index) -> Int[Array, "B"]:
    """The token that stands at `index` in the end: the proposal, if it stays."""
    best = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    if not rules.draw.sampled:
        return best
    tempered = tempered_scores(scores, rules.draw)
    keys = _keys(rules, index, _REPLACE)
    if proposal is None:
        drawn = jax.vmap(jax.random.categorical)(keys, tempered).astype(jnp.int32)
        return jnp.where(rules.draw.temperature > 0.0, drawn, best)
    p, q = (jax.nn.softmax(x, axis=-1) for x in (tempered, drawn_from))
    chance = jax.vmap(jax.random.uniform)(_keys(rules, index, _ACCEPT))
    rows = jnp.arange(len(proposal))
    stays = chance * q[rows, proposal] < p[rows, proposal]
    rest = jnp.maximum(p - q, 0.0)
    # Where nothing is left over, the two are equal and the proposal stays.
    replacement = jax.vmap(jax.random.categorical)(keys, jnp.log(rest)).astype(jnp.int32)
    return jnp.where(rules.draw.temperature > 0.0, jnp.where(stays, proposal, replacement), best)


def _note(writing: Writing, rules: Rules, here, token, scores) -> Writing:
    """One more token in the rows that are `here`."""
    rows = jnp.arange(len(token))
    place = jnp.where(here, writing.lengths, writing.tokens.shape[1])
    chosen = jax.nn.log_softmax(scores, axis=-1)[rows, token]
    lengths = writing.lengths + here.astype(jnp.int32)
    return writing.replace(
        trail=advance_trail(writing.trail, rules, token, here),
        token=jnp.where(here, token, writing.token),
        done=writing.done | (here & (rules.ends[token] | (lengths >= rules.limits))),
        tokens=writing.tokens.at[rows, place].set(token, mode="drop"),
        log_probabilities=writing.log_probabilities.at[rows, place].set(chosen, mode="drop"),
        lengths=lengths,
    )


def _worth_reading(writing: Writing, rules: Rules, number):
    """Whether the token of that number is read: the last one that a row may have is not."""
    return ~writing.done & (number + 1 < rules.limits)


def _keys(rules: Rules, index, purpose):
    keys = jax.vmap(jax.random.fold_in)(rules.draw.keys, index)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)


class Drafted(NamedTuple):
    """A text that was written with a draft; tokens, log_probabilities and ended_by as of `generate`.

    passes: of the large model, after the one that read the prompt. proposed, accepted: tokens of the draft, and those
    of them that stayed.
    """

    text: str
    tokens: Int[np.ndarray, "T"]
    log_probabilities: Float[np.ndarray, "T"]
    ended_by: str
    passes: int
    proposed: int
    accepted: int


def write_with_draft(
    target: Reader,
    draft: Reader,
    prompts: tuple[Any, Any],
    *,
    max_tokens: int = 64,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    stop: Sequence[str] = (),
    width: int = 4,
) -> Drafted:
    """Continues one prompt, given as each of the two models takes it.

    Raises:
      InputError: a model cannot read it, it is too long with what is to be written, or as of `speculate`.
    """
    if max_tokens < 1:
        raise InputError(f"max_tokens must be at least 1, not {max_tokens}")
    sides = []
    for reader, prompt in zip((target, draft), prompts, strict=True):
        prepared = reader.prepare(prompt)
        count = len(prepared.tokens)
        check_lengths([count + max_tokens], reader.writer.decoder.max_length)
        opening = reader.open(prepared, bucket(count, PROMPT_BUCKET))
        with use_mesh(reader.mesh):
            sides.append(Side(reader.writer, at_hand(reader.writer, reader.parameters), opening))
    rules = Rules(
        writable=jnp.asarray(target.writable),
        ends=jnp.asarray(np.isin(np.arange(len(target.writable)), list(target.ends))),
        limits=jnp.full(1, max_tokens, jnp.int32),
        draw=jax.tree.map(jnp.asarray, make_draw(sampling, 1)),
    )
    with use_mesh(target.mesh):
        found = speculate(*sides, rules, most=bucket(max_tokens, NEW_BUCKET), width=width)
    return _read_out(target, found, stop)


def _read_out(reader: Reader, found: Speculated, stop) -> Drafted:
    tokens = found.texts.tokens[0, : found.texts.lengths[0]]
    ended_by = reader.ends.get(int(tokens[-1]), "length")
    texts = TextStream(reader.decode, stops=stop, joined=reader.joined)
    pieces = []
    for count, token in enumerate(tokens[: len(tokens) - (ended_by != "length")], start=1):
        pieces.append(texts.push(token))
        if texts.stop is not None:
            tokens = tokens[:count]
            break
    pieces.append(texts.end())
    ended_by = "stop" if texts.stop is not None else ended_by
    figures = (int(x[0]) for x in (found.rounds, found.proposed, found.accepted))
    return Drafted("".join(pieces), tokens, found.texts.log_probabilities[0, : len(tokens)], ended_by, *figures)
