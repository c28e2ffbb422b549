"""The stream that a configuration describes, and which of its batches a verb is about."""

from __future__ import annotations

import argparse

from mmjax.cli.configs import load_config
from mmjax.core.errors import InputError
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import Tokenizer, make_tokenizer
from mmjax.training.run import RunConfig


def add_steps_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--steps A:B`."""
    parser.add_argument(
        "--steps", default="0:1", metavar="A:B", help="batches A to B - 1, counted from 0 (default 0:1)"
    )


def steps_of(text: str) -> range:
    """The steps of `A:B`. Raises InputError for another text."""
    first, colon, stop = text.partition(":")
    if not (colon and first.isdigit() and stop.isdigit() and int(first) < int(stop)):
        raise InputError(f"--steps must be A:B with A below B, such as 0:10, not {text!r}")
    return range(int(first), int(stop))


def open_config(options: argparse.Namespace) -> tuple[RunConfig, Tokenizer]:
    """The configuration that the options name, and its tokenizer."""
    config = load_config(options.config, options.overrides)
    return config, make_tokenizer(config.tokenizer)


def open_stream(config: RunConfig, tokenizer: Tokenizer, **settings) -> BatchStream:
    """The stream of a configuration; `settings` as BatchStream takes them."""
    return BatchStream(config.data, tokenizer, batch_size=config.batch_size, seed=config.seed, **settings)


def add_source_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--source NAME`."""
    parser.add_argument("--source", default=None, metavar="NAME", help="this data set alone (default all)")


def named_sources(config: RunConfig, name: str | None) -> tuple[str, ...]:
    """All data sets of a configuration, or the one of that name. Raises ConfigError where there is none."""
    if name is not None:
        config.data.entry(name)
        return (name,)
    return tuple(sorted(config.data.sources))
