"""The command line: finds the verb, prepares the process, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmjax.core.errors import MmjaxError

VERBS = {
    "train": "train a model, or resume a run",
    "eval": "score a trained model on held-out episodes",
    "generate": "continue a prompt of pictures and text",
    "report": "write a run's report page",
    "inspect": "what a run, a checkpoint or a configuration holds",
    "data": "look at the rows of a configuration: show, ids",
}

EPILOG = """exit codes: 0 done, 1 failed, 2 the input must be changed.
`mmjax VERB --help` explains a verb. Settings of a configuration are changed by --config.KEY=VALUE, e.g.
  mmjax train --config configs/flamingo_digits.py --workdir runs/digits --config.optim.learning_rate=1e-3"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `mmjax ARGUMENTS`; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="mmjax",
        description="Multimodal language models in JAX, from a laptop to a TPU pod.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    named = next((word for word in arguments if not word.startswith("-")), None)
    for verb, summary in VERBS.items():
        # Only the verb that is called is imported, so that help and mistakes are answered at once.
        child = verbs.add_parser(verb, help=summary, add_help=verb == named)
        if verb == named:
            module = importlib.import_module(f"mmjax.cli.{verb}")
            child.description, child.formatter_class = module.__doc__, argparse.RawDescriptionHelpFormatter
            child.add_argument("--debug", action="store_true", help="print the traceback of an error")
            child.add_argument(
                "--simulate-devices", type=int, metavar="N", help="run on N simulated CPU devices (for trying meshes)"
            )
            module.add_arguments(child)
            child.set_defaults(run=module.run)
    options, rest = parser.parse_known_args(arguments)
    options.overrides = _overrides(parser, rest)
    debug = options.debug
    try:
        _prepare(options.simulate_devices)
        return options.run(options) or 0
    except MmjaxError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split())
        print(
            f"error: {type(error).__name__}: {text[:500]} (the same command with --debug shows where)", file=sys.stderr
        )
        return 1


def _overrides(parser: argparse.ArgumentParser, rest: Sequence[str]) -> list[tuple[str, str]]:
    """`--config.KEY=VALUE` and `--config.KEY VALUE` as (KEY, VALUE); anything else is refused."""
    found, words = [], list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--config."):
            parser.error(f"unrecognised argument: {word}")
        key, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            if not words:
                parser.error(f"{word} needs a value: {word}=VALUE")
            value = words.pop(0)
        found.append((key, value))
    return found


def _prepare(simulated: int | None) -> None:
    """Settings that must stand before JAX starts its backends."""
    if simulated:
        os.environ["JAX_PLATFORMS"] = "cpu"
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={simulated}".strip()
        os.environ.setdefault("NPROC", "16")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mmjax" / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    for name in ("absl", "orbax", "jax._src.xla_bridge", "jax._src.compilation_cache"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _version() -> str:
    from mmjax import __version__

    return f"mmjax {__version__}"

