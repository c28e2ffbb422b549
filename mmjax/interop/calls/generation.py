"""Generation by the settings of the reference's `generate`: greedy, sampled, or by beam search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError
from mmjax.decoding.answers import plant
from mmjax.decoding.beams import Beams, search
from mmjax.decoding.loop import Rules
from mmjax.decoding.rows import NEW_BUCKET, PROMPT_BUCKET, bucket
from mmjax.decoding.sampling import Sampling, make_draw
from mmjax.decoding.stops import StopStrings, write_texts
from mmjax.decoding.writer import Opening, Writer, lengthen

# Without generation_config.json the reference takes these.
_DEFAULTS: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "seed": 0,
}
_LENGTHS = ("max_new_tokens", "max_length")
_TOKENS = ("eos_token_id", "pad_token_id")
# How it is computed and returned, not what; and ids that only a prompt needs.
_NO_MATTER = {
    *("use_cache", "cache_implementation", "return_dict_in_generate", "output_scores", "output_logits"),
    *("output_attentions", "output_hidden_states", "bos_token_id", "decoder_start_token_id", "transformers_version"),
    "num_assistant_tokens",
}
# Settings of the reference that are none of ours, at the values at which they do nothing.
_IDLE = {
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "diversity_penalty": 0.0,
    "num_beam_groups": 1,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "guidance_scale": 1.0,
    "low_memory": False,
}
DEFAULT_NEW_TOKENS = 20
# Names of all settings, of which some are refused.
SETTINGS = frozenset({*_DEFAULTS, *_LENGTHS, *_TOKENS, *_NO_MATTER, *_IDLE})


class Written(NamedTuple):
    """What the reference's `generate` returns: prompts and what was written, filled with the padding token.

    start: where in `sequences` the prompt ends. lengths: tokens of each row after it, the one that ended it included.
    ended: whether that was a token that ends a text.
    log_probabilities: of each token written, under the model itself; 0 after them.
    scores: of each sequence of a beam search (the reference's sequences_scores), else None.
    choices: numbers of the answers, where answers were given; None for a row that is empty as there are too few.
    """

    sequences: Int[np.ndarray, "B T"]
    start: int
    lengths: Int[np.ndarray, "B"]
    ended: Bool[np.ndarray, "B"]
    log_probabilities: Float[np.ndarray, "B S"]
    scores: Float[np.ndarray, "B"] | None = None
    choices: tuple[int | None, ...] | None = None


def write(
    writer: Writer,
    parameters: Mapping[str, Array],
    opening: Opening,
    settings: Mapping[str, Any],
    *,
    stops: StopStrings | None = None,
    answers: Sequence[Sequence[int]] = (),
) -> Written:
    """Rows of each prompt, `num_return_sequences` of them together.

    settings: those of the reference's `generate`, over those of the checkpoint (see `generation_settings`). `seed` is
    of the draws, which are not those of the reference. stops: what ends a row besides. answers: tokens of those of
    which one is written, before a token that ends it; `max_new_tokens` does not count then.

    Raises:
      InputError: a setting that is not known here, or that does not go with the others.
    """
    prompts, start = opening.sequences.shape
    asked = _DEFAULTS | {name: value for name, value in settings.items() if value is not None}
    sampling = _sampling(asked, start)
    _check(asked, sampling)
    steps = 1 + max(map(len, answers)) if answers else _steps(asked, start)
    _check_positions(writer, opening, steps)
    ends = [] if asked.get("eos_token_id") is None else np.atleast_1d(asked["eos_token_id"]).tolist()
    samples, beaming = asked["num_return_sequences"], asked["num_beams"] > 1
    rules = _rules(writer, sampling, prompts, 1 if beaming else samples, steps, ends, answers)
    room, read = bucket(steps, NEW_BUCKET), lengthen(opening, bucket(start, PROMPT_BUCKET))
    pad = asked.get("pad_token_id")
    if beaming:
        if stops is not None:
            raise InputError("stop strings end a text as it is written; leave them or num_beams out")
        beams = Beams(asked["num_beams"], asked["length_penalty"], asked["early_stopping"])
        found = search(writer, parameters, read, rules, beams, ends=len(ends), room=room, most=steps)
        best = (x[:, :samples].reshape(prompts * samples, -1) for x in found)
        tokens, lengths, scores, log_probabilities = best
        # The reference takes a padding token 0 for none here.
        filling = (pad or ends[0]) if ends else -1
        written = _joined(opening, tokens, lengths[:, 0], log_probabilities, ends, filling, scores[:, 0])
    else:
        texts = write_texts(writer, parameters, read, rules, room=room, samples=samples, steps=steps, stops=stops)
        filling = (ends[0] if ends else 0) if pad is None else pad
        written = _joined(opening, texts.tokens, texts.lengths, texts.log_probabilities, ends, filling)
    return written._replace(choices=_chosen(written, answers)) if answers else written


def _rules(writer: Writer, sampling: Sampling, prompts: int, samples: int, steps: int, ends, answers) -> Rules:
    vocabulary = writer.decoder.vocab_size
    rules = Rules(
        writable=np.ones(vocabulary, bool),
        ends=np.isin(np.arange(vocabulary), ends),
        limits=np.full(prompts * samples, steps, np.int32),
        draw=make_draw(sampling, prompts, samples),
    )
    if not answers:
        return rules
    if not all(answers):
        raise InputError("a choice needs at least one answer, and none may be empty")
    if not ends or sampling.min_tokens or sampling.no_repeat_ngram:
        raise InputError(
            "an answer is written as it is given, and then a token that ends it: give eos_token_id, and leave "
            "min_new_tokens, min_length and no_repeat_ngram_size out"
        )
    tree, [root] = plant([[(*answer, end) for answer in answers for end in ends]])
    return rules.replace(answers=tree, roots=np.full(prompts * samples, root, np.int32))


def generation_settings(folder: Path, kw: Mapping[str, Any]) -> dict[str, Any]:
    """What the reference generates with: generation_config.json, else the ids that config.json names; then `kw`.

    A setting that `kw` has as None is left out.
    """
    settings: dict[str, Any] = {}
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.exists():
            read = json.loads(path.read_text())
            text = read.get("text_config") or read.get("lang") or {}
            known = {**{key: text.get(key) for key in _TOKENS}, **{key: read[key] for key in _TOKENS if key in read}}
            settings = known if name == "config.json" else known | read
            break
    kept = {key: value for key, value in (settings | dict(kw)).items() if value is not None}
    return {key: value for key, value in kept.items() if not key.startswith("_")}


def sampling_of(folder: Path, kw: Mapping[str, Any], *, length: int) -> Sampling:
    """How the reference chooses tokens after a prompt of `length` tokens, by its settings `kw` over those of `folder`.

    Raises:
      InputError: a setting that is not known here, or that does not go with the others.
    """
    asked = _DEFAULTS | generation_settings(folder, kw)
    sampling = _sampling(asked, length)
    _check(asked, sampling)
    return sampling


def _joined(opening: Opening, tokens, lengths, log_probabilities, ends, filling, scores=None) -> Written:
    longest = int(lengths.max())
    there = np.arange(longest) < lengths[:, None]
    new = np.where(there, tokens[:, :longest], filling)
    before = np.asarray(opening.sequences)
    before = np.repeat(before, len(tokens) // len(before), axis=0)
    likelihoods = np.where(there, log_probabilities[:, :longest], 0.0)
    # Within few answers there are fewer texts than beams: the others are empty.
    ended = np.isin(np.take_along_axis(tokens, np.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0], ends) & (lengths > 0)
    return Written(np.concatenate([before, new], axis=1), before.shape[1], lengths, ended, likelihoods, scores)


def _chosen(written: Written, answers) -> tuple[int | None, ...]:
    numbers = {tuple(answer): number for number, answer in reversed(list(enumerate(answers)))}
    rows = zip(written.sequences[:, written.start :], written.lengths, strict=True)
    return tuple(numbers[tuple(row[: length - 1].tolist())] if length else None for row, length in rows)


def _sampling(asked: Mapping[str, Any], length: int) -> Sampling:
    draws = asked["do_sample"]
    if draws and not asked["temperature"] > 0.0:
        raise InputError("temperature must be above 0 where do_sample is set; leave do_sample out for greedy decoding")
    return Sampling(
        temperature=float(asked["temperature"]) if draws else 0.0,
        top_k=asked["top_k"] if draws else 0,
        top_p=asked["top_p"] if draws else 1.0,
        min_p=asked["min_p"] if draws else 0.0,
        seed=asked["seed"],
        repetition_penalty=float(asked["repetition_penalty"]),
        no_repeat_ngram=asked["no_repeat_ngram_size"],
        min_tokens=max(asked["min_new_tokens"], asked["min_length"] - length),
    )


def _check(asked: Mapping[str, Any], sampling: Sampling) -> None:
    known = {*_DEFAULTS, *_LENGTHS, *_TOKENS, *_NO_MATTER}
    odd = [key for key, value in asked.items() if key not in known and (key not in _IDLE or value != _IDLE[key])]
    if odd:
        shown = {key: asked[key] for key in odd}
        raise InputError(f"generate knows nothing of {shown} here; give None for what is to be left out")
    beams, samples = asked["num_beams"], asked["num_return_sequences"]
    if beams < 1 or samples < 1:
        raise InputError(f"num_beams and num_return_sequences must be 1 or more, not {beams} and {samples}")
    if beams > 1 and sampling.temperature:
        raise InputError("beams are searched, not drawn: set do_sample or num_beams, not both")
    if beams > 1 and samples > beams:
        raise InputError(f"num_return_sequences ({samples}) must be at most num_beams ({beams})")
    if beams == 1 and samples > 1 and not sampling.temperature:
        raise InputError("greedy decoding has one result; set do_sample or num_beams for more of them")


def _steps(asked: Mapping[str, Any], length: int) -> int:
    steps = asked.get("max_new_tokens")
    if steps is None:
        steps = asked["max_length"] - length if "max_length" in asked else DEFAULT_NEW_TOKENS
    if steps < 1:
        raise InputError(f"generate must write at least one token, not {steps}; give max_new_tokens")
    return steps


def _check_positions(writer: Writer, opening: Opening, steps: int) -> None:
    last, table = int(np.max(opening.next_position)) + steps - 2, writer.decoder.max_length
    if writer.decoder.positions == "learned" and last >= table:
        raise InputError(
            f"the model has {table} positions, and {steps} tokens after this prompt would need {last + 1}; write fewer"
        )
