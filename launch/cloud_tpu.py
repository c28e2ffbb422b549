"""Runs on Cloud TPU VMs: a queued request for slices, the code copied and installed, training on all hosts.

    python -m launch.cloud_tpu up --name demo --topology v5e:16x16 --zone us-west4-a --spot \\
        --config configs/flamingo_3b.py --workdir gs://BUCKET/demo -- --config.batch_size=512

`up` does create, setup, start and wait, and does them again after a preemption until the run is finished. The verbs
also stand alone. Every verb takes --dry-run. The Cloud TPU API has no 7x; `python -m launch.gke` does.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence

from launch.options import (
    Parser,
    add_run_arguments,
    add_slice_arguments,
    add_tpu_run_arguments,
    add_verb,
    main,
    run_of,
    slice_of,
)
from launch.steps import LaunchError, Step, read_step, run_step, run_steps
from launch.topology import Slice
from mmjax.core.errors import InputError

# States of a request that will not become ACTIVE: cloud.google.com/tpu/docs/queued-resources.
GONE = ("SUSPENDING", "SUSPENDED", "FAILED")
ARCHIVE = "mmjax.tar.gz"  # in the home directory of each host
PAUSE_SECONDS = 60.0  # before another round: a slice that is taken away is called ACTIVE for a little longer


def make_parser() -> Parser:
    """The command line of `python -m launch.cloud_tpu`."""
    parser = Parser(
        prog="python -m launch.cloud_tpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    request = "Request {slices} x {topology} in {zone}? It costs from the moment it is ready"
    up = add_verb(
        verbs,
        "up",
        "create, setup, start and wait, again after each preemption, until the run is finished",
        plan_up,
        asks=request + ", and is requested again after a preemption.",
        run=run_up,
    )
    create = add_verb(verbs, "create", "request the slices and wait for them", plan_create, asks=request + ".")
    for verb in (up, create):
        add_slice_arguments(verb)
        capacity = verb.add_mutually_exclusive_group()
        capacity.add_argument("--spot", action="store_true", help="cheaper, and taken away at any time")
        capacity.add_argument("--reserved", action="store_true", help="from a reservation")
        verb.add_argument(
            "--service-account", metavar="EMAIL", help="that may use the bucket (default: Compute Engine's)"
        )
        verb.add_argument("--network", help="of the hosts (default: default)")
    setup = add_verb(verbs, "setup", "copy this checkout to all hosts and install it; mount the buckets", plan_setup)
    setup.add_argument("--bucket", action="append", default=[], metavar="NAME", help="mount it at /gcs/NAME")
    start = add_verb(verbs, "start", "start the run on all hosts, or start it again where it was saved", plan_start)
    start.add_argument("--topology", required=True, metavar="T", help="the slice it runs on, as for create")
    start.add_argument("--slices", type=int, default=1, metavar="N")
    for verb in (up, start):
        add_run_arguments(verb, workdir="gs://BUCKET/PATH", restarts=50)
        add_tpu_run_arguments(verb)
    add_verb(verbs, "wait", "wait until the run has ended on all hosts", plan_wait)
    add_verb(verbs, "status", "show the request, and the run on each host", plan_status)
    add_verb(verbs, "logs", "follow the first process", plan_logs)
    add_verb(verbs, "stop", "have the run saved and ended; start starts it again", plan_stop, asks="Stop {name}?")
    add_verb(verbs, "delete", "give the slices back", plan_delete, asks="Delete the TPUs of {name} in {zone}?")
    for verb in verbs.choices.values():
        verb.add_argument("--zone", required=True, help="of the slices")
        verb.add_argument("--project", help="of Google Cloud (default: gcloud's)")
    return parser


def plan_create(options: argparse.Namespace) -> list[Step]:
    """The queued request, and waiting until it is filled."""
    chips = _slice(options)
    command = ("gcloud", "compute", "tpus", "queued-resources", "create", options.name, *_where(options))
    nodes = (f"--node-id={options.name}",)
    if options.slices > 1:
        nodes = (f"--node-count={options.slices}", f"--node-prefix={options.name}")
    kind = (f"--accelerator-type={chips.accelerator_type}",)
    if chips.planned.chip.name == "v4":
        kind = ("--type=v4", f"--topology={chips.topology}")
    command += (*nodes, *kind, f"--runtime-version={chips.generation.runtime}")
    command += ("--scopes=https://www.googleapis.com/auth/cloud-platform",)
    command += tuple(
        word
        for word, given in (
            ("--spot", options.spot),
            ("--reserved", options.reserved),
            (f"--service-account={options.service_account}", options.service_account),
            (f"--network={options.network}", options.network),
        )
        if given
    )
    hint = "look at the quota of this TPU in this zone (docs/pods.md)"
    return [
        Step(f"request {options.slices} x {chips}, {options.slices * chips.hosts} hosts", command, hint=hint),
        _wait_until_active(options),
    ]


def plan_setup(options: argparse.Namespace) -> list[Step]:
    """The committed files of this checkout on all hosts, installed, and the buckets mounted."""
    buckets = list(options.bucket)
    if hasattr(options, "workdir"):
        buckets = list(run_of(options, _slice(options)).buckets)
    archive = f"/tmp/mmjax-{options.name}.tar.gz"
    unpack = f"mkdir -p mmjax && tar -xzf {ARCHIVE} -C mmjax && "
    copy = ("gcloud", "compute", "tpus", "queued-resources", "scp", archive, f"{options.name}:{ARCHIVE}")
    hint = "what is not committed would not reach the hosts: commit it first"
    return [
        Step("see that all changes are committed", ("sh", "-c", 'test -z "$(git status --porcelain)"'), hint=hint),
        Step("pack the checkout", ("git", "archive", "--format=tar.gz", f"--output={archive}", "HEAD")),
        Step("copy it to all hosts", (*copy, "--node=all", "--worker=all", *_where(options))),
        Step(
            "install it on all hosts",
            _on_hosts(options, unpack + shlex.join(["bash", "mmjax/launch/hosts/install.sh", *buckets])),
        ),
    ]


def plan_start(options: argparse.Namespace) -> list[Step]:
    """Training on all hosts, in the background."""
    run = run_of(options, _slice(options))
    environment = [f"{key}={value}" for key, value in run.environment.items()]
    return [
        Step("start the run on all hosts", _on_hosts(options, _job(options, "start", *environment, "--", *run.command)))
    ]


def plan_wait(options: argparse.Namespace) -> list[Step]:
    """Waiting on all hosts; the exit code is 0 only if the run is finished."""
    hint = "python -m launch.cloud_tpu status and logs tell why; start starts it again where it was saved"
    return [Step("wait for the run to end on all hosts", _on_hosts(options, _job(options, "wait")), hint=hint)]


def plan_up(options: argparse.Namespace) -> list[Step]:
    """One round: `run_up` goes through it again after a preemption."""
    return [*plan_create(options), *plan_setup(options), *plan_start(options), *plan_wait(options)]


def run_up(options: argparse.Namespace, steps: Sequence[Step]) -> None:
    """Rounds of `plan_up` until the run is finished; what is there already is not made again.

    Raises:
      LaunchError: a command that is no part of the run failed, or the run failed too often or for its input.
    """
    restarts = run_of(options, _slice(options)).restarts
    for start in range(restarts + 1):
        state = read_step(_state(options))
        if state in GONE:
            run_steps(plan_delete(options))
            state = ""
        if not state:
            run_steps(plan_create(options))
        elif state != "ACTIVE":
            run_step(_wait_until_active(options))
        try:
            run_steps([*plan_setup(options), *plan_start(options), *plan_wait(options)])
            return
        except LaunchError as error:
            if _ended_for_its_input(options):
                raise
            print(f"{error}\nstart {start + 1} of {restarts + 1} has ended", file=sys.stderr, flush=True)
            time.sleep(PAUSE_SECONDS)
    raise LaunchError(f"{options.name} was started {restarts + 1} times and is not finished")


def plan_status(options: argparse.Namespace) -> list[Step]:
    """The state of the request, and a line for each host."""
    hint = "the hosts can be reached only while the request is ACTIVE"
    return [
        Step("show the request (nothing: there is none)", _state(options).command),
        Step("show the run on each host", _on_hosts(options, _job(options, "status")), hint=hint),
    ]


def plan_logs(options: argparse.Namespace) -> list[Step]:
    """The log of process 0, which writes for all."""
    return [Step("follow the first process", _on_hosts(options, _job(options, "logs"), first=True))]


def plan_stop(options: argparse.Namespace) -> list[Step]:
    """SIGTERM on all hosts; the state is saved."""
    return [Step("stop the run, which saves first", _on_hosts(options, _job(options, "stop")))]


def plan_delete(options: argparse.Namespace) -> list[Step]:
    """Deletes the request and its slices."""
    command = ("gcloud", "compute", "tpus", "queued-resources", "delete", options.name, *_where(options))
    return [Step("delete the request and its slices", (*command, "--force", "--quiet"))]


def _slice(options) -> Slice:
    chips = slice_of(options)
    if not chips.generation.runtime:
        raise InputError(
            f"--topology {chips}: the Cloud TPU API does not have this generation; use python -m launch.gke"
        )
    if chips.planned.chip.name == "v5p" and chips.accelerator_shape != str(chips):
        raise InputError(
            f"--topology {chips}: the Cloud TPU API gives {chips.chips} chips as {chips.accelerator_shape}; plan for "
            "that shape, or use python -m launch.gke, where it can be chosen"
        )
    return chips


def _ended_for_its_input(options) -> bool:
    """Whether the first host is there and says that the run ended with exit code 2."""
    try:
        ask = Step("ask the first host", _on_hosts(options, _job(options, "status"), first=True))
        return read_step(ask) == "ended 2"
    except LaunchError:
        return False


def _state(options) -> Step:
    """Prints the state of the request; nothing if there is none."""
    command = ("gcloud", "compute", "tpus", "queued-resources", "list", *_where(options))
    command += (f"--filter=name ~ (^|/){options.name}$", "--format=value(state.state)")
    return Step("look up the request", command)


def _wait_until_active(options) -> Step:
    step = _state(options)
    hint = "python -m launch.cloud_tpu delete, then create again"
    return Step("wait for the slices", step.command, wait_for="ACTIVE", fail_on=GONE, hint=hint)


def _on_hosts(options, command: str, *, first: bool = False) -> tuple[str, ...]:
    which = ("--node=0", "--worker=0") if first else ("--node=all", "--worker=all", "--batch-size=all")
    ssh = ("gcloud", "compute", "tpus", "queued-resources", "ssh", options.name)
    return (*ssh, *which, *_where(options), f"--command={command}")


def _job(options, verb: str, *words: str) -> str:
    return shlex.join(["bash", "mmjax/launch/hosts/job.sh", verb, options.name, *words])


def _where(options) -> tuple[str, ...]:
    return (f"--zone={options.zone}", *((f"--project={options.project}",) if options.project else ()))


if __name__ == "__main__":
    sys.exit(main(make_parser()))
