"""What all launchers take: a name, slices, a config, a workdir, and arguments of `mmjax train`."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launch.steps import Step, confirm, print_steps, run_steps
from launch.topology import Slice, parse_slice
from mmjax.core.errors import InputError, MmjaxError

# Where buckets are mounted on every host: gs://BUCKET/PATH is /gcs/BUCKET/PATH there.
BUCKETS = "/gcs"
# Names become host names with "-slice-0-1023" behind them, of which the system allows 63 characters.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9]")


class Parser(argparse.ArgumentParser):
    """Answers mistakes in one line with exit code 2, as `mmjax` does. Options are not guessed from their beginnings."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, allow_abbrev=False, **settings)

    def error(self, message: str):
        self.exit(InputError.exit_code, f"error: {message} ({self.prog} --help explains)\n")


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run as every launcher needs it.

    workdir: the path on the hosts. buckets: what is mounted there. environment: variables of each process.
    measure: time the step instead of training. restarts: how often it is started again after a failure.
    """

    name: str
    config: str
    workdir: str
    buckets: tuple[str, ...]
    environment: Mapping[str, str]
    arguments: tuple[str, ...]
    measure: bool
    restarts: int

    @property
    def command(self) -> tuple[str, ...]:
        """Arguments of `python -m launch.worker` on every host."""
        if self.measure:
            return ("measure", "--config", self.config, "--out", f"{self.workdir}/pod.md", *self.arguments)
        return ("train", "--config", self.config, "--workdir", self.workdir, *self.arguments)


def add_verb(
    verbs,
    verb: str,
    what: str,
    plan: Callable[[argparse.Namespace], Sequence[Step]],
    *,
    asks: str = "",
    run: Callable[[argparse.Namespace, Sequence[Step]], None] | None = None,
    named: bool = True,
) -> Parser:
    """Adds a verb to the subparsers `verbs`.

    Args:
      what: its help. plan: the steps of the options.
      asks: the question before they are run, a format string over the options; empty where nothing costs.
      run: does the steps, where they are not simply run one after the other.
      named: whether it is about a run, which `--name` names.
    """
    child = verbs.add_parser(verb, help=what, description=what[0].upper() + what[1:] + ".")
    child.set_defaults(plan=plan, asks=asks, run=run)
    if named:
        child.add_argument("--name", required=True, help="of the run: lower-case letters, digits and -, at most 40")
    child.add_argument("--dry-run", action="store_true", help="print what would be done; do nothing")
    child.add_argument("--yes", action="store_true", help="do not ask before what costs or deletes")
    return child


def add_slice_arguments(parser: argparse.ArgumentParser) -> None:
    """`--topology` and `--slices`."""
    parser.add_argument("--topology", required=True, metavar="T", help="a slice as `mmjax plan` names it: v5p:8x8x16")
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="how many of them (default 1)")


def add_run_arguments(parser: argparse.ArgumentParser, *, workdir: str, restarts: int) -> None:
    """What a run is made of; arguments after `--` go to `mmjax train`."""
    parser.add_argument("--config", required=True, help="config file, as for mmjax train")
    parser.add_argument("--workdir", required=True, metavar="DIR", help=workdir)
    parser.add_argument("--env", action="append", default=[], metavar="KEY=VALUE", help="a variable of each process")
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=restarts,
        metavar="N",
        help=f"how often the run is started again after a failure (default {restarts})",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="time the step instead of training (benchmarks/pod.py); the row of figures is added to DIR/pod.md",
    )
    parser.epilog = (
        "Arguments after -- go to mmjax train (or to benchmarks/pod.py), such as: -- --config.batch_size=512"
    )


def add_tpu_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What a run on TPUs takes besides."""
    parser.add_argument(
        "--bucket", action="append", default=[], metavar="NAME", help=f"mount this bucket too, at {BUCKETS}/NAME"
    )
    parser.add_argument(
        "--tpu-flags",
        choices=("none", "published"),
        default="none",
        help="published: LIBTPU_INIT_ARGS that published trainers set for this generation (not measured here)",
    )


def slice_of(options: argparse.Namespace) -> Slice:
    """The slice that `--topology` names. Raises InputError."""
    if options.slices < 1:
        raise InputError(f"--slices must be 1 or more, not {options.slices}")
    return parse_slice(options.topology)


def run_of(options: argparse.Namespace, chips: Slice | None = None) -> Run:
    """The run that the options describe. Raises InputError for what cannot be used."""
    if options.max_restarts < 0:
        raise InputError(f"--max-restarts must be 0 or more, not {options.max_restarts}")
    environment = dict(_variable(text) for text in options.env)
    workdir, buckets = options.workdir, ()
    if chips is not None:
        workdir, buckets = _in_buckets(options)
        if options.tpu_flags == "published":
            environment.setdefault("LIBTPU_INIT_ARGS", chips.flags(options.slices))
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", f"{workdir}/compiled")
    return Run(
        name=options.name,
        config=_config_on_hosts(options.config),
        workdir=workdir,
        buckets=buckets,
        environment=environment,
        arguments=tuple(options.more_arguments),
        measure=options.measure,
        restarts=0 if options.measure else options.max_restarts,
    )


def render(template: str, **values) -> str:
    """A file of launch/templates with its values; a value that is missing is an error."""
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=folder, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return environment.get_template(template).render(**values)


def main(parser: Parser, arguments: Sequence[str] | None = None) -> int:
    """Parses, prints or runs the steps of a verb; returns the exit code: 0, 1 failed, 2 the input must be changed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    split = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:split])
    options.more_arguments = words[split + 1 :]
    try:
        if options.more_arguments and not hasattr(options, "workdir"):
            raise InputError(f"{options.verb} takes no arguments after --: {' '.join(options.more_arguments)}")
        if hasattr(options, "name") and not _NAME.fullmatch(options.name):
            raise InputError(
                f"--name {options.name!r}: give at most 40 lower-case letters, digits and -, first a letter"
            )
        steps = options.plan(options)
        if options.dry_run:
            print_steps(steps)
            return 0
        if options.asks:
            confirm(options.asks.format(**vars(options)), yes=options.yes)
        if options.run is None:
            run_steps(steps)
        else:
            options.run(options, steps)
    except MmjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _config_on_hosts(config: str) -> str:
    """The config as the hosts find it: relative to the checkout, which they have a copy of."""
    file, colon, argument = config.partition(":")
    if "/" not in file and not file.endswith(".py"):
        return config  # a name of configs/
    path = Path(file).resolve()
    if not path.exists():
        raise InputError(f"--config {config}: there is no file {file}")
    if not path.is_relative_to(Path.cwd()):
        raise InputError(f"--config {config} is outside of {Path.cwd()}, of which the hosts get a copy")
    return f"{path.relative_to(Path.cwd())}{colon}{argument}"


def _variable(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise InputError(f"--env {text}: give KEY=VALUE")
    return key, value


def _in_buckets(options) -> tuple[str, tuple[str, ...]]:
    """The workdir's path on the hosts, and the buckets to mount."""
    scheme, _, rest = options.workdir.partition("://")
    if scheme != "gs" or not rest:
        raise InputError(
            f"--workdir {options.workdir}: the hosts share no disk, so a run on TPUs lives in a bucket: gs://BUCKET/PATH"
        )
    bucket, _, path = rest.strip("/").partition("/")
    if not path:
        raise InputError(f"--workdir {options.workdir}: give a folder within the bucket, gs://{bucket}/PATH")
    buckets = tuple(dict.fromkeys([bucket, *(name.removeprefix("gs://").strip("/") for name in options.bucket)]))
    for name in buckets:
        if not _BUCKET.fullmatch(name):
            raise InputError(f"{name!r} is not the name of a bucket")
    return f"{BUCKETS}/{bucket}/{path}", buckets
