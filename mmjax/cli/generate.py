"""Continue a prompt of pictures and text with a trained model, or with a released one.

mmjax generate --checkpoint DIR --shot a.png:"this is a dax." --image b.png --prompt "this is a"
mmjax generate --model DIR --image b.png --prompt "USER: <image> What is this? ASSISTANT:" --beams 4

Shots come first, each a picture with its text. Then the prompt: its pictures stand where it says <image>, or before it
if there is just one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

import jax

from mmjax.cli.drafted import write_drafted
from mmjax.cli.released import open_whole, write_after
from mmjax.core.errors import InputError
from mmjax.core.folders import local_path
from mmjax.decoding.beams import Beams
from mmjax.decoding.generate import Generated, generate
from mmjax.decoding.prompt import Prompt, open_picture
from mmjax.decoding.sampling import Sampling
from mmjax.decoding.speculative import Drafted
from mmjax.interop.pretrained import load_pretrained
from mmjax.parallel import distributed
from mmjax.training.load import check_can_write, find_run, load_run, read_config, usable_mesh

# Of processes that read a folder, which has no settings of its own.
HEARTBEAT_SECONDS = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax generate`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="PATH", help="a workdir, or one step of its checkpoints")
    source.add_argument("--model", metavar="DIR", help="a folder in the layout of transformers")
    parser.add_argument(
        "--shot", action="append", default=[], metavar="FILE:TEXT", help="a demonstration; may be repeated"
    )
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture of the prompt; may be repeated"
    )
    parser.add_argument("--prompt", default="", metavar="TEXT", help="the text to continue")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="write at most N tokens (default 64)")
    _add_strategy(parser)
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each text: with tokens and their log-probabilities"
    )
    distributed.add_arguments(parser)


def _add_strategy(parser: argparse.ArgumentParser) -> None:
    """What is not given is as the model's folder says, if it does; see `_REFERENCE` for its names."""

    def add(name, kind, letter, said):
        parser.add_argument(name, type=kind, metavar=letter, help=said)

    add("--temperature", float, "X", "0 is greedy (default)")
    add("--top-k", int, "K", "draw from the K most probable tokens")
    add("--top-p", float, "P", "draw from the most probable of sum P")
    add("--min-p", float, "P", "draw from those that are P times as probable as the first, or more")
    add("--seed", int, "N", "seed of the draws (default 0)")
    add("--repetition-penalty", float, "X", "above 1, what was there already is less probable")
    add("--no-repeat-ngram", int, "N", "no N tokens come twice in the same order")
    add("--samples", int, "N", "N texts: drawn, or the best of the beams (default 1)")
    add("--beams", int, "N", "search with N beams")
    add("--length-penalty", float, "X", "of beams: above 0 prefers longer texts (default 1)")
    add("--draft", str, "PATH", "a smaller run, or folder, of the same tokenizer proposes; greedy texts stay the same")
    parser.add_argument("--draft-tokens", type=int, default=4, metavar="N", help="proposed at a time (default 4)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated")
    parser.add_argument("--choices", metavar="A,B,C", help="write one of these answers, and nothing else")


def run(options: argparse.Namespace) -> int:
    """Generates; returns the exit code."""
    asked = _asked(options)
    if options.draft is not None:
        return _run_with_draft(options, asked)
    prompt, written = (_of_run if options.checkpoint else _of_folder)(options, asked)
    if jax.process_index():
        return 0
    for text in written:
        print(json.dumps(_record(prompt, text, asked)) if options.json else f"{options.prompt}{text.text}")
    return 0


def _run_with_draft(options, asked: _Asked) -> int:
    distributed.join(options, heartbeat_seconds=HEARTBEAT_SECONDS)
    settings = None if options.checkpoint else _reference_settings(options, asked)
    prompt, text = write_drafted(
        options, lambda open_file: _prompt(options, open_file), asked.sampling, settings=settings
    )
    if jax.process_index():
        return 0
    figures = {"passes": text.passes, "proposed": text.proposed, "accepted": text.accepted}
    if options.json:
        print(json.dumps({**_common_record(prompt, text), "draft": figures}))
    else:
        print(f"{options.prompt}{text.text}")
        said = f"{text.accepted} of {text.proposed} proposals stayed: {len(text.tokens)} tokens in {text.passes} passes"
        print(said, file=sys.stderr)
    return 0


# Of the options, those that are settings of the reference's `generate`, and its names for them.
_REFERENCE = {
    "max_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram": "no_repeat_ngram_size",
    "samples": "num_return_sequences",
    "beams": "num_beams",
    "length_penalty": "length_penalty",
}


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The options that are given, checked."""

    sampling: Sampling
    beams: Beams | None
    samples: int
    choices: tuple[str, ...]


def _asked(options) -> _Asked:
    for name in ("max_tokens", "beams", "samples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, not {value}")
    choices = () if options.choices is None else tuple(options.choices.split(","))
    if not all(choices):
        raise InputError(f"--choices must be answers with commas between, such as cat,dog, not {options.choices!r}")
    given = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(Sampling)}
    sampling = Sampling(**{name: value for name, value in given.items() if value is not None})
    beams = None
    if (options.beams or 1) > 1:
        beams = Beams(options.beams, 1.0 if options.length_penalty is None else options.length_penalty)
    return _Asked(sampling, beams, options.samples or 1, choices)


def _prompt(options, open_file) -> Prompt:
    """The prompt with its shots; `open_file` makes a picture of a file's name."""
    shots = []
    for shot in options.shot:
        name, colon, text = shot.partition(":")
        if not colon or not text:
            raise InputError(f'--shot must be FILE:TEXT, such as a.png:"this is a dax.", not {shot!r}')
        shots.append((open_file(name), text))
    return Prompt.from_text(options.prompt, [open_file(name) for name in options.image]).after(shots)


def _of_run(options, asked: _Asked) -> tuple[str, list[Generated]]:
    config = read_config(find_run(options.checkpoint)[0])
    check_can_write(config, "mmjax generate", families=("flamingo", "inline"))
    prompt = _prompt(options, lambda name: open_picture(name, size=config.data.image_size))
    distributed.join(options, heartbeat_seconds=config.guards.heartbeat_seconds)
    mesh = usable_mesh(config)
    loaded = load_run(options.checkpoint, mesh)
    written = generate(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        [prompt],
        max_tokens=options.max_tokens,
        sampling=asked.sampling,
        samples=asked.samples,
        beams=asked.beams,
        stop=options.stop,
        choices=asked.choices,
        layout=config.data.layout,
        mesh=mesh,
    )
    return str(prompt), written


def _reference_settings(options, asked: _Asked) -> dict[str, Any]:
    """Those that were given: for all others the folder's count."""
    given = {name: getattr(options, option) for option, name in _REFERENCE.items()}
    settings = {name: value for name, value in given.items() if value is not None}
    return {**settings, "do_sample": asked.sampling.temperature > 0.0}


def _of_folder(options, asked: _Asked) -> tuple[str, list[Generated]]:
    prompt = _prompt(options, open_whole)
    distributed.join(options, heartbeat_seconds=HEARTBEAT_SECONDS)
    loaded = load_pretrained(local_path(options.model))
    written = write_after(loaded, prompt, _reference_settings(options, asked), stop=options.stop, choices=asked.choices)
    return str(prompt), written


def _common_record(prompt: str, text: Generated | Drafted) -> dict:
    return {
        "prompt": prompt,
        "text": text.text,
        "tokens": text.tokens.tolist(),
        "log_probabilities": text.log_probabilities.tolist(),
        "ended_by": text.ended_by,
    }


def _record(prompt: str, text: Generated, asked: _Asked) -> dict:
    record = _common_record(prompt, text)
    if text.score is not None:
        record["score"] = text.score
    if text.choice is not None:
        record["choice"] = text.choice
        record["text"] = asked.choices[text.choice]
    return record
