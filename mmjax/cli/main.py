"""The command line: finds the verb, prepares the process, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import keyword
import logging
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from mmjax.core.config import nearest
from mmjax.core.errors import InputError, MmjaxError

VERBS = {
    "train": "train a model, or resume a run",
    "eval": "score a trained model on held-out episodes",
    "generate": "continue a prompt of pictures and text",
    "chat": "talk to a model in the terminal",
    "report": "write a run's report page",
    "inspect": "what a run, a checkpoint or a configuration holds",
    "import": "take an outside checkpoint in",
    "export": "give a checkpoint back in an outside layout",
    "parity": "prove an outside checkpoint against its reference",
    "plan": "does it fit on TPU chips that are not there, and what binds it",
    "data": "look at the data of a configuration, check and prepare them",
    "score": "score a file of predictions as the official evaluation does",
}

EPILOG = """exit codes: 0 done, 1 failed, 2 the input must be changed.
`mmjax VERB --help` explains a verb. Settings of a configuration are changed by --config.KEY=VALUE, e.g.
  mmjax train --config configs/flamingo_digits.py --workdir runs/digits --config.optim.learning_rate=1e-3"""

_SIMULATE = "run on N simulated CPU devices (for trying meshes)"


class _Parser(argparse.ArgumentParser):
    """Answers mistakes in one line, as all errors are. Names of options are not guessed from their beginnings."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, allow_abbrev=False, **settings)

    def error(self, message: str):
        self.exit(InputError.exit_code, f"error: {message} ({self.prog} --help explains)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `mmjax ARGUMENTS`; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when JAX is imported
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    dashes = arguments.index("--") if "--" in arguments else len(arguments)
    words, overrides = _take_overrides(arguments[:dashes])
    parser = _Parser(
        prog="mmjax",
        description="Multimodal language models in JAX, from a laptop to a TPU pod.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    verb = next((word for word in words if not word.startswith("-")), None)
    child = _add_verbs(parser, verb)
    if not words:
        parser.print_help(sys.stderr)
        return InputError.exit_code
    if child is None:
        parser.parse_args(words if verb is None else [])  # --help and --version answer here
        parser.error("give a verb" if verb is None else f"there is no verb {verb!r}{nearest(verb, VERBS)}")
    options, unknown = parser.parse_known_args(words)
    if unknown:
        hint = ""
        if unknown[0].startswith("--") and hasattr(options, "config"):
            hint = f"; a setting of the configuration is --config.{unknown[0].removeprefix('--')}"
        child.error(f"there is no option {unknown[0]}{hint}")
    if arguments[dashes:]:
        if not hasattr(options, "passed_on"):
            child.error("nothing may follow --")
        options.passed_on = tuple(arguments[dashes + 1 :])
    return _run(options, overrides)


def _run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from mmjax.parallel import peers

    code, reason = 1, None
    try:
        options.overrides = _check_overrides(overrides, options)
        _prepare(options.simulate_devices)
        code = options.run(options) or 0
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        code, reason = 130, error
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = error
    except Exception as error:
        peers.await_reason(error)
        if options.debug:
            if peers.current() is None:
                raise
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        code, reason = error.exit_code if isinstance(error, MmjaxError) else 1, error
    return peers.leave(code, reason)


def _add_verbs(parser: argparse.ArgumentParser, called: str | None) -> argparse.ArgumentParser | None:
    """Adds the verbs and imports the one that is called, so that help is quick; returns its parser."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for verb, summary in VERBS.items():
        child = verbs.add_parser(verb, help=summary, add_help=verb == called)
        if verb == called:
            module = importlib.import_module(f"mmjax.cli.{verb}{'_' * keyword.iskeyword(verb)}")
            child.description, child.formatter_class = module.__doc__, argparse.RawDescriptionHelpFormatter
            for place, leaf in enumerate((child, *(module.add_arguments(child) or ()))):
                absent = {"default": argparse.SUPPRESS} if place else {}  # a verb's own verbs take them too
                leaf.add_argument("--simulate-devices", type=int, metavar="N", help=_SIMULATE, **absent)
                leaf.add_argument("--debug", action="store_true", help="print the traceback of an error", **absent)
            child.set_defaults(run=module.run)
    return verbs.choices.get(called)


def _take_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--config.KEY=VALUE` and `--config.KEY VALUE` out of the arguments, as `KEY=VALUE`."""
    words, overrides, rest = [], [], list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--config."):
            words.append(word)
            continue
        if "=" not in word and rest and not rest[0].startswith("--"):
            word = f"{word}={rest.pop(0)}"
        overrides.append(word.removeprefix("--config."))
    return words, overrides


def _check_overrides(overrides: Sequence[str], options: argparse.Namespace) -> list[tuple[str, str]]:
    for override in overrides:
        if "=" not in override:
            raise InputError(f"--config.{override} needs a value: --config.{override}=VALUE")
    if overrides and not hasattr(options, "config"):
        raise InputError(
            f"--config.{overrides[0]}: {options.verb} takes no settings, a run keeps its own configuration"
        )
    if overrides and options.config is None:
        raise InputError(f"--config.{overrides[0]} changes a config file, but no --config FILE is given")
    return [(key, value) for key, _, value in (override.partition("=") for override in overrides)]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MmjaxError):
        return text
    return f"{type(error).__name__}: {text[:500]} (the same command with --debug shows where)"


def _prepare(simulated: int | None) -> None:
    """Settings that must stand before JAX starts its backends."""
    import jax

    from mmjax.parallel.host import keep_freed_memory, leave_absent_tpu

    if simulated is not None:
        if simulated < 1:
            raise InputError(f"--simulate-devices must be 1 or more, not {simulated}")
        jax.config.update("jax_platforms", "cpu")
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={simulated}".strip()
        os.environ.setdefault("NPROC", "16")
    leave_absent_tpu()
    keep_freed_memory()
    if jax.config.jax_compilation_cache_dir is None:
        # By host: a program compiled for one processor may crash another that shares the home directory.
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mmjax" / "compiled" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(cache))
    for name in ("absl", "orbax", "jax._src.xla_bridge", "jax._src.compilation_cache"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _version() -> str:
    from mmjax import __version__

    return f"mmjax {__version__}"
