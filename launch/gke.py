"""Runs on Google Kubernetes Engine: node pools, the image, and a JobSet with one job a slice.

    python -m launch.gke nodes  --name demo --topology v5p:4x4x4 --cluster C --location us-east5 --zone us-east5-a
    python -m launch.gke image  --image REGISTRY/mmjax:1
    python -m launch.gke submit --name demo --topology v5p:4x4x4 --config configs/flamingo_9b.py \\
        --workdir gs://BUCKET/demo --image REGISTRY/mmjax:1 -- --config.batch_size=512

Every verb takes --dry-run. GKE gives each pod of a JobSet TPU_WORKER_ID and TPU_WORKER_HOSTNAMES, and MEGASCALE_* where
there are several slices; JAX finds the other processes by them.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from launch.options import (
    BUCKETS,
    Parser,
    Run,
    add_run_arguments,
    add_slice_arguments,
    add_tpu_run_arguments,
    add_verb,
    main,
    render,
    run_of,
    slice_of,
)
from launch.steps import Step
from launch.topology import Slice
from launch.worker import STOPPED
from mmjax.core.errors import InputError

# From SIGTERM to SIGKILL where the node allows it; a spot node is gone after some 30 s whatever is asked for.
GRACE_SECONDS = 600
# Nothing about the workdir is remembered: a checkpoint that one host has finished is there for all others at once.
WORKDIR_MOUNT = "implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0"


def make_parser() -> Parser:
    """The command line of `python -m launch.gke`."""
    parser = Parser(
        prog="python -m launch.gke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    nodes = add_verb(
        verbs,
        "nodes",
        "create a node pool for each slice",
        plan_nodes,
        asks="Create {slices} node pool(s) of {topology} in {cluster}? They cost from the moment they exist.",
    )
    add_slice_arguments(nodes)
    _add_cluster_arguments(nodes)
    nodes.add_argument("--location", required=True, help="region or zone of the cluster")
    nodes.add_argument("--zone", required=True, help="of the nodes, one that has this TPU")
    nodes.add_argument("--spot", action="store_true", help="spot machines: cheaper, and taken away at any time")
    nodes.add_argument("--reservation", metavar="NAME", help="use this reservation")
    image = add_verb(
        verbs, "image", "build the container image from this checkout and push it", plan_image, named=False
    )
    image.add_argument("--image", required=True, metavar="REGISTRY/NAME:TAG")
    submit = add_verb(
        verbs,
        "submit",
        "start the run, or start it again where it was saved",
        plan_submit,
        asks="Start {name} on {slices} x {topology}?",
    )
    _add_submit_arguments(submit)
    submit.add_argument("--namespace", default="default")
    submit.add_argument(
        "--service-account", default="default", metavar="NAME", help="of Kubernetes, that may use the bucket"
    )
    submit.add_argument("--queue", metavar="NAME", help="the local queue, where the cluster has Kueue")
    submit.add_argument("--spot", action="store_true", help="the node pools were made with --spot")
    xpk = add_verb(
        verbs,
        "xpk",
        "the same by xpk, on a cluster that xpk made",
        plan_xpk,
        asks="Start {name} on {slices} x {topology}?",
    )
    _add_submit_arguments(xpk)
    _add_cluster_arguments(xpk)
    xpk.add_argument("--zone", required=True)
    for verb, what, plan in (
        ("status", "show the run and its pods", plan_status),
        ("logs", "follow the first process", plan_logs),
    ):
        add_verb(verbs, verb, what, plan).add_argument("--namespace", default="default")
    stop = add_verb(
        verbs, "stop", "have the run saved and ended; submit starts it again", plan_stop, asks="Stop {name}?"
    )
    stop.add_argument("--namespace", default="default")
    delete = add_verb(
        verbs,
        "delete-nodes",
        "delete the node pools that nodes created",
        plan_delete_nodes,
        asks="Delete the {slices} node pool(s) of {name} in {cluster}?",
    )
    delete.add_argument("--slices", type=int, default=1, metavar="N")
    _add_cluster_arguments(delete)
    delete.add_argument("--location", required=True, help="region or zone of the cluster")
    return parser


def plan_nodes(options: argparse.Namespace) -> list[Step]:
    """A node pool a slice: GKE takes the nodes of one pool for one torus."""
    chips = slice_of(options)
    steps, placement = [], ()
    if chips.hosts > 1 and chips.generation.workload_policy:
        policy = f"{options.name}-placement"
        placement = (f"--placement-policy={policy}",)
        region = "-".join(options.zone.split("-")[:2])
        create = (
            "gcloud",
            "compute",
            "resource-policies",
            "create",
            "workload-policy",
            policy,
            "--type=HIGH_THROUGHPUT",
        )
        command = (*create, f"--accelerator-topology={chips.topology}", f"--region={region}", *_project(options))
        steps.append(Step("say how the hosts of a slice are to lie", command))
    elif chips.hosts > 1:
        placement = ("--placement-type=COMPACT", f"--tpu-topology={chips.topology}")
    capacity = ("--spot",) if options.spot else ()
    if options.reservation:
        capacity = (*capacity, "--reservation-affinity=specific", f"--reservation={options.reservation}")
    for pool in _pools(options):
        command = (
            "gcloud",
            "container",
            "node-pools",
            "create",
            pool,
            *_cluster(options),
            f"--node-locations={options.zone}",
        )
        command += (f"--machine-type={chips.machine}", f"--num-nodes={chips.hosts}", *placement)
        command += ("--workload-metadata=GKE_METADATA", *capacity)
        hint = "look at the quota of this TPU in this region, and at zones that have it (docs/pods.md)"
        steps.append(Step(f"create the node pool {pool}: {chips}, {chips.hosts} hosts", command, hint=hint))
    return steps


def plan_image(options: argparse.Namespace) -> list[Step]:
    """Builds launch/Dockerfile and pushes it."""
    build = ("docker", "build", "--platform=linux/amd64", "--file=launch/Dockerfile", f"--tag={options.image}", ".")
    hint = "log in first: gcloud auth configure-docker HOST"
    return [Step("build the image", build), Step("push it", ("docker", "push", options.image), hint=hint)]


def plan_submit(options: argparse.Namespace) -> list[Step]:
    """Removes what is left of an earlier start, and applies the manifest."""
    chips, run = slice_of(options), run_of(options, slice_of(options))
    clear = _kubectl(options, "delete", "jobset", options.name, "--ignore-not-found", "--wait=true")
    hint = "the cluster needs JobSet: kubectl get crd jobsets.jobset.x-k8s.io (docs/pods.md)"
    return [
        Step("remove an earlier start of this run, once it has saved", clear, hint=hint),
        Step("start the run", ("kubectl", "apply", "-f", "-"), stdin=manifest(options, chips, run), hint=hint),
    ]


def manifest(options: argparse.Namespace, chips: Slice, run: Run) -> str:
    """The JobSet as YAML."""
    if options.slices > 1 and chips.hosts == 1:
        raise InputError(f"--slices {options.slices}: GKE joins slices of several hosts only, and {chips} is one host")
    return render(
        "jobset.yaml.j2",
        name=run.name,
        namespace=options.namespace,
        queue=options.queue,
        slice=chips,
        slices=options.slices,
        max_restarts=run.restarts,
        grace_seconds=GRACE_SECONDS,
        service_account=options.service_account,
        spot=options.spot,
        image=options.image,
        command=_worker(run),
        environment=run.environment,
        buckets=run.buckets,
        mount_at=BUCKETS,
        mount_options=WORKDIR_MOUNT,
    )


def plan_xpk(options: argparse.Namespace) -> list[Step]:
    """`xpk storage attach` for each bucket, and `xpk workload create`."""
    chips, run = slice_of(options), run_of(options, slice_of(options))
    where = (f"--cluster={options.cluster}", f"--zone={options.zone}", *_project(options))
    steps = []
    for bucket in run.buckets:
        command = ("xpk", "storage", "attach", f"bucket-{bucket}".replace("_", "-").replace(".", "-"), *where)
        command += ("--type=gcsfuse", f"--bucket={bucket}", f"--mount-point={BUCKETS}/{bucket}", "--readonly=false")
        command += (
            "--size=1",
            "--auto-mount=true",
            f"--mount-options={WORKDIR_MOUNT if bucket == run.buckets[0] else 'implicit-dirs'}",
        )
        steps.append(Step(f"mount gs://{bucket} in every workload (once for a cluster)", command))
    command = ("xpk", "workload", "create", f"--workload={run.name}", *where, f"--tpu-type={chips.xpk_type}")
    command += (f"--num-slices={options.slices}", f"--docker-image={options.image}")
    command += (f"--max-restarts={run.restarts}", f"--restart-on-exit-codes=1,{STOPPED}")
    command += (f"--termination-grace-period-seconds={GRACE_SECONDS}",)
    command += tuple(f"--env={key}={value}" for key, value in run.environment.items())
    command += (f"--command={shlex.join(_worker(run))}",)
    return [*steps, Step("start the run", command)]


def plan_status(options: argparse.Namespace) -> list[Step]:
    """The JobSet, its pods, and what happened lately."""
    return [
        Step("show the run", _kubectl(options, "get", "jobset", options.name)),
        Step("show its pods", _kubectl(options, "get", "pods", "--output=wide", f"--selector={_label(options)}")),
    ]


def plan_logs(options: argparse.Namespace) -> list[Step]:
    """The log of process 0, which writes for all."""
    first = f"{_label(options)},jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    command = _kubectl(options, "logs", "--follow", "--tail=200", "--container=train", f"--selector={first}")
    return [Step("follow the first process", command, hint="it has not started: python -m launch.gke status")]


def plan_stop(options: argparse.Namespace) -> list[Step]:
    """SIGTERM to every pod; the state is saved within the grace period."""
    return [Step("stop the run, which saves first", _kubectl(options, "delete", "jobset", options.name, "--wait=true"))]


def plan_delete_nodes(options: argparse.Namespace) -> list[Step]:
    """Deletes the node pools."""
    delete = ("gcloud", "container", "node-pools", "delete")
    return [Step(f"delete {pool}", (*delete, pool, *_cluster(options), "--quiet")) for pool in _pools(options)]


def _add_submit_arguments(parser) -> None:
    add_slice_arguments(parser)
    add_run_arguments(parser, workdir="gs://BUCKET/PATH", restarts=50)
    add_tpu_run_arguments(parser)
    parser.add_argument("--image", required=True, metavar="REGISTRY/NAME:TAG", help="what `image` pushed")


def _add_cluster_arguments(parser) -> None:
    parser.add_argument("--cluster", required=True, metavar="NAME")
    parser.add_argument("--project", help="of Google Cloud (default: gcloud's)")


def _cluster(options) -> tuple[str, ...]:
    return (f"--cluster={options.cluster}", f"--location={options.location}", *_project(options))


def _project(options) -> tuple[str, ...]:
    return (f"--project={options.project}",) if options.project else ()


def _pools(options) -> list[str]:
    if options.slices < 1:
        raise InputError(f"--slices must be 1 or more, not {options.slices}")
    return [f"{options.name}-{number}" for number in range(options.slices)]


def _kubectl(options, *words: str) -> tuple[str, ...]:
    return ("kubectl", *words, f"--namespace={options.namespace}")


def _label(options) -> str:
    return f"jobset.sigs.k8s.io/jobset-name={options.name}"


def _worker(run: Run) -> tuple[str, ...]:
    return ("python", "-m", "launch.worker", *run.command)


if __name__ == "__main__":
    sys.exit(main(make_parser()))
