"""Generation: prompts are read once, then written on, one token a step, in programs of static shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import InputError
from mmjax.decoding.answers import plant
from mmjax.decoding.beams import Beams, search
from mmjax.decoding.beginnings import Beginning
from mmjax.decoding.families import OPENERS, open_prompts, writer_of
from mmjax.decoding.logits import stop_tokens, writable_tokens
from mmjax.decoding.loop import Rules
from mmjax.decoding.pictures import PictureTable, encode_pictures, put
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.rows import NEW_BUCKET, PROMPT_BUCKET, bucket, check_lengths, pad_rows, tokenize_prompt
from mmjax.decoding.sampling import Sampling, make_draw
from mmjax.decoding.shared import PREFIX, cut, going_on
from mmjax.decoding.stops import StopStrings, write_texts
from mmjax.parallel.sharding import use_mesh
from mmjax.text.prompt import Layout
from mmjax.text.tokenizer import Tokenizer


class Generated(NamedTuple):
    """What was written after one prompt.

    `log_probabilities` are those of the tokens under the model itself, before temperature, penalties and filters. The
    token that ended it, if one did, is the last; `text` leaves it out, and what is from the stop string on. `score`: of
    a beam search. `choice`: number of the answer, where answers were given.
    """

    text: str
    tokens: Int[np.ndarray, "T"]
    log_probabilities: Float[np.ndarray, "T"]
    ended_by: Literal["end_of_chunk", "eos", "stop", "length"]
    score: float | None = None
    choice: int | None = None


def generate(
    model: nn.Module,
    params: Mapping[str, Array],
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int = 64,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    samples: int = 1,
    beams: Beams | None = None,
    stop: Sequence[str] = (),
    choices: Sequence[str] = (),
    layout: Layout = Layout(),  # noqa: B008 (frozen)
    beginning: Beginning | None = None,
    mesh: Mesh | None = None,
) -> list[Generated]:
    """Continues each prompt until the end of its chunk, the end of the text, a stop string, or `max_tokens` tokens.

    samples: how many texts of each prompt, drawn, or the best of a beam search; they stand together.
    beams: search them; else one token after the other, as `sampling` says. stop: a text ends before any of these.
    choices: the answers of which one is written, as each would follow the prompt; `max_tokens` does not count then.
    layout: how prompts are written in tokens, as the model was trained.
    beginning: what all prompts begin with, if the model, a Flamingo, has read it already. Penalties do not go with it,
    which count all of a prompt.

    Prompts of different lengths go in one batch; batch, tokens, pictures
    and `max_tokens` are padded to buckets, each of which is compiled once. `params` are by path. What a row writes does
    not depend on the others.

    Raises:
      InputError: no prompt, one longer than the model's positions, a model that writes no text, or things that do not
        go together.
    """
    asked = _Asked(max_tokens, sampling, samples, beams, tuple(stop), tuple(choices))
    if beginning is not None and (sampling.repetition_penalty != 1.0 or sampling.no_repeat_ngram):
        raise InputError("penalties count all of a prompt: leave repetition_penalty and no_repeat_ngram out")
    if not prompts:
        raise InputError("generation needs a prompt")
    if type(model) not in OPENERS:
        raise InputError(f"a {type(model).__name__} writes no text")
    answers = [tuple(tokenizer.encode(text)) for text in asked.choices]
    most = 1 + max(map(len, answers)) if answers else asked.max_tokens
    read = [tokenize_prompt(prompt, tokenizer, layout) for prompt in prompts]
    check_lengths((len(text.tokens) + most for text in read), model.config.decoder.max_length)
    media = [prompt.media for prompt in prompts]
    if beginning is not None:
        read = [cut(text, beginning.length)[1] for text in read]
        media = [own[beginning.pictures :] for own in media]
    rows, features = _look(model, params, tokenizer, media, read, mesh)
    batch = len(rows.lengths)
    samples = 1 if asked.beams else asked.samples
    rules = Rules(
        writable=writable_tokens(tokenizer, model.config.decoder.vocab_size),
        ends=np.isin(np.arange(model.config.decoder.vocab_size), stop_tokens(tokenizer)),
        limits=np.repeat(np.where(np.arange(batch) < len(prompts), most, 0).astype(np.int32), samples),
        draw=make_draw(asked.sampling, batch, samples),
    )
    if answers:
        ends = sorted(set(stop_tokens(tokenizer)))
        tree, [root] = plant([[(*answer, end) for answer in answers for end in ends]])
        rules = rules.replace(answers=tree, roots=np.full(batch * samples, root, np.int32))
    with use_mesh(mesh):
        opening = open_prompts(model, mesh, rows, features)
        writer = writer_of(model, rows, features)
        if beginning is not None:
            writer, params = going_on(writer), {**params, PREFIX: beginning.prefix}
        return [
            text._replace(choice=answers.index(tuple(text.tokens[:-1].tolist())) if answers else None)
            for text in _write(writer, params, opening, rules, asked, tokenizer, most)
        ]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is to be written after each prompt: arguments of `generate` that go together."""

    max_tokens: int
    sampling: Sampling
    samples: int
    beams: Beams | None
    stop: tuple[str, ...]
    choices: tuple[str, ...]

    def __post_init__(self):
        if self.max_tokens < 1 or self.samples < 1:
            raise InputError(f"max_tokens and samples must be at least 1, not {self.max_tokens} and {self.samples}")
        if self.beams is None and self.samples > 1 and not self.sampling.temperature:
            raise InputError("greedy decoding has one result; set a temperature or beams for several samples")
        if self.beams is not None:
            if self.sampling.temperature:
                raise InputError("beams are searched, not drawn: leave temperature or beams out")
            if self.stop:
                raise InputError("stop strings end a text as it is written; leave them or beams out")
            if self.samples > self.beams.count:
                raise InputError(f"of {self.beams.count} beams there cannot be {self.samples} samples; ask for fewer")
        if not all(self.choices):
            raise InputError("a choice needs at least one answer, and none may be empty")
        if self.choices and (self.sampling.min_tokens or self.sampling.no_repeat_ngram or self.stop):
            raise InputError("an answer is written as it is given: leave min_tokens, no_repeat_ngram and stop out")


def _look(model, params, tokenizer, media, read, mesh):
    """The prompts as rows on the device, and the features of their pictures."""
    table = PictureTable()
    slots = [[table.add(medium) for medium in own] for own in media]
    batch, images = bucket(len(read)), bucket(max(1, *(text.images for text in read)))
    rows = pad_rows(
        read,
        slots,
        rows=batch,
        length=bucket(max(len(text.tokens) for text in read), PROMPT_BUCKET),
        images=images,
        pad=tokenizer.special["pad"],
    )
    features = encode_pictures(model, params, table, capacity=batch * images, mesh=mesh)
    return jax.tree.map(lambda leaf: put(leaf, mesh), rows), features


def _write(writer, params, opening, rules: Rules, asked: _Asked, tokenizer, most) -> list[Generated]:
    """The texts of the rows that are no padding."""
    room = bucket(most, NEW_BUCKET)
    if asked.beams is not None:
        ends = int(rules.ends.sum())
        found = search(writer, params, opening, rules, asked.beams, ends=ends, room=room, most=most)
        chosen = [(row, place) for row in np.flatnonzero(rules.limits) for place in range(asked.samples)]
        # Within few answers there are fewer texts than beams.
        return [
            _read_out(
                tokenizer,
                found.tokens[at][: found.lengths[at]],
                found.log_probabilities[at][: found.lengths[at]],
                score=float(found.scores[at]),
            )
            for at in chosen
            if found.lengths[at]
        ]
    stops = StopStrings(asked.stop, tokenizer.decode) if asked.stop else None
    texts = write_texts(writer, params, opening, rules, room=room, samples=asked.samples, steps=most, stops=stops)
    return [
        _read_out(
            tokenizer,
            texts.tokens[row, : texts.lengths[row]],
            texts.log_probabilities[row, : texts.lengths[row]],
            stops=stops,
        )
        for row in np.flatnonzero(rules.limits)
    ]


def _read_out(tokenizer, tokens, log_probabilities, *, stops: StopStrings | None = None, score=None) -> Generated:
    special = tokenizer.special
    ends = {special["end_of_chunk"]: "end_of_chunk", special["eos"]: "eos"}
    ended_by = ends.get(int(tokens[-1]), "length")
    text = tokenizer.decode(tokens if ended_by == "length" else tokens[:-1])
    before = text if stops is None else stops.cut(text)
    if before != text:
        text, ended_by = before, "stop"
    return Generated(text, tokens, log_probabilities, ended_by, score)
