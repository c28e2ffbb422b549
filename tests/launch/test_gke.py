"""Manifests and commands for GKE, checked against the published schemas."""

import os
import pathlib
import shlex

import jsonschema
import kubernetes_validate
import pytest
import yaml

from launch import gke
from launch.options import main
from tests.launch.dry_runs import commands, dry_run, manifest, options_of

RUN = "--config configs/flamingo_9b.py --workdir gs://my-bucket/runs/demo --image europe-docker.pkg.dev/p/r/mmjax:1"
SUBMIT = f"submit --name demo {RUN}"
WHERE = "--cluster c --location us-east5 --zone us-east5-a"

# Fields of jobset.x-k8s.io/v1alpha2 that a manifest here may have (kubernetes-sigs/jobset, api/jobset/v1alpha2).
JOBSET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "failurePolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "maxRestarts": {"type": "integer", "minimum": 0},
                        "rules": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["name", "action"],
                                "properties": {
                                    "name": {"pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                                    "action": {"enum": ["FailJobSet"]},
                                    "onJobFailureReasons": {"type": "array", "items": {"enum": ["PodFailurePolicy"]}},
                                },
                            },
                        },
                    },
                },
                "replicatedJobs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "template"],
                        "properties": {
                            "name": {"type": "string"},
                            "replicas": {"type": "integer", "minimum": 0},
                            "template": {"type": "object"},
                        },
                    },
                },
            },
        },
    },
}

CASES = {
    "one slice": f"{SUBMIT} --topology v5p:8x8x16",
    "two slices": f"{SUBMIT} --topology v5p:8x8x16 --slices 2 --bucket my-data --spot --queue users",
    "flags": f"{SUBMIT} --topology v6e:16x16 --tpu-flags published --env A='b \"c\": d' --max-restarts 3",
    "one host": f"{SUBMIT} --topology v5e:2x2",
    "one chip": f"{SUBMIT} --topology v5e:1x1 -- --config.batch_size=8",
}


def job(document):
    (replicated,) = document["spec"]["replicatedJobs"]
    return replicated["template"]


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_a_manifest_fits_the_schemas(nothing_runs, words):
    document = manifest(dry_run("gke", words))
    jsonschema.validate(document, JOBSET)
    kubernetes_validate.validate(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": document["metadata"], **job(document)},
        "1.32",
        strict=True,
    )


@pytest.mark.skipif("JOBSET_CRD" not in os.environ, reason="JOBSET_CRD names no jobset.x-k8s.io_jobsets.yaml")
@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_a_manifest_fits_the_published_definition(nothing_runs, words):
    definition = yaml.safe_load(pathlib.Path(os.environ["JOBSET_CRD"]).read_text())
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1alpha2")
    jsonschema.validate(manifest(dry_run("gke", words)), _strict(version["schema"]["openAPIV3Schema"]))


def _strict(schema):
    """The same schema, in which a field that it does not name is an error."""
    if not isinstance(schema, dict):
        return [_strict(item) for item in schema] if isinstance(schema, list) else schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema and "additionalProperties" not in schema:
        strict["additionalProperties"] = False
    return strict


def test_a_slice_is_a_job_with_a_pod_for_each_host(nothing_runs):
    document = manifest(dry_run("gke", CASES["two slices"]))
    (replicated,) = document["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 2
    spec = job(document)["spec"]
    assert spec["parallelism"] == spec["completions"] == 256
    assert spec["completionMode"] == "Indexed" and spec["backoffLimit"] == 0
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "8x8x16",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"google.com/tpu": 4}
    assert {port["containerPort"] for port in container["ports"]} == {8471, 8482, 8431}
    annotations = document["metadata"]["annotations"]
    assert annotations == {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    assert document["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "users"}
    assert pod["hostNetwork"] and pod["dnsPolicy"] == "ClusterFirstWithHostNet"


def test_a_run_is_started_again_unless_its_input_is_wrong(nothing_runs):
    document = manifest(dry_run("gke", CASES["flags"]))
    policy = document["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 3
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])
    ]
    spec = job(document)["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 300


def test_the_process_that_trains_is_the_container(nothing_runs):
    pod = job(manifest(dry_run("gke", CASES["one chip"])))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == [
        *("python", "-m", "launch.worker", "train", "--config", "configs/flamingo_9b.py"),
        *("--workdir", "/gcs/my-bucket/runs/demo", "--config.batch_size=8"),
    ]


def test_measuring_is_the_same_with_another_program_and_no_restarts(nothing_runs):
    document = manifest(dry_run("gke", f"{SUBMIT} --topology v5p:4x4x4 --measure -- --steps=50"))
    (container,) = job(document)["spec"]["template"]["spec"]["containers"]
    assert container["command"][3:] == [
        *("measure", "--config", "configs/flamingo_9b.py", "--out", "/gcs/my-bucket/runs/demo/pod.md", "--steps=50")
    ]
    assert document["spec"]["failurePolicy"]["maxRestarts"] == 0


def test_buckets_are_mounted_where_the_run_looks_for_them(nothing_runs):
    template = job(manifest(dry_run("gke", CASES["two slices"])))["spec"]["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    pod = template["spec"]
    names = {volume["csi"]["volumeAttributes"]["bucketName"]: volume["name"] for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {bucket: mounts[name] for bucket, name in names.items()} == {
        "my-bucket": "/gcs/my-bucket",
        "my-data": "/gcs/my-data",
    }


def test_environment_is_quoted_and_flags_are_an_option(nothing_runs):
    def environment(words):
        (container,) = job(manifest(dry_run("gke", words)))["spec"]["template"]["spec"]["containers"]
        return {variable["name"]: variable["value"] for variable in container["env"]}

    with_flags = environment(CASES["flags"])
    assert with_flags["A"] == 'b "c": d'
    assert "--xla_tpu_scoped_vmem_limit_kib=98304" in with_flags["LIBTPU_INIT_ARGS"]
    without = environment(CASES["one slice"])
    assert without == {"JAX_COMPILATION_CACHE_DIR": "/gcs/my-bucket/runs/demo/compiled"}


def test_submit_ends_an_earlier_start_first(nothing_runs):
    delete, apply = commands(dry_run("gke", CASES["one slice"]))
    assert delete[:4] == ["kubectl", "delete", "jobset", "demo"] and "--wait=true" in delete
    assert apply[:4] == ["kubectl", "apply", "-f", "-"]


def test_a_node_pool_for_each_slice(nothing_runs):
    made = commands(dry_run("gke", f"nodes --name demo --topology v5p:4x4x4 --slices 2 --spot {WHERE}"))
    assert [command[:5] for command in made] == [
        ["gcloud", "container", "node-pools", "create", "demo-0"],
        ["gcloud", "container", "node-pools", "create", "demo-1"],
    ]
    options = options_of(made[0])
    assert options["--machine-type"] == "ct5p-hightpu-4t" and options["--num-nodes"] == "16"
    assert options["--tpu-topology"] == "4x4x4" and options["--node-locations"] == "us-east5-a"
    assert "--spot" in made[0]
    deleted = commands(dry_run("gke", "delete-nodes --name demo --slices 2 --cluster c --location us-east5"))
    assert [command[4] for command in deleted] == ["demo-0", "demo-1"]


def test_one_host_needs_no_placement_and_7x_a_policy(nothing_runs):
    (single,) = commands(dry_run("gke", f"nodes --name demo --topology v6e:2x2 {WHERE}"))
    assert not {"--tpu-topology", "--placement-policy"} & set(options_of(single))
    policy, pool = commands(dry_run("gke", f"nodes --name demo --topology 7x:4x4x4 {WHERE}"))
    assert policy[:5] == ["gcloud", "compute", "resource-policies", "create", "workload-policy"]
    assert options_of(policy)["--accelerator-topology"] == "4x4x4" and options_of(policy)["--region"] == "us-east5"
    assert options_of(pool)["--placement-policy"] == policy[5] and "--tpu-topology" not in options_of(pool)


def test_the_same_by_xpk(nothing_runs):
    words = f"xpk --name demo {RUN} --topology v5e:16x16 --slices 2 --cluster c --zone z --project p --env A=1"
    attach, create = commands(dry_run("gke", words))
    assert attach[:3] == ["xpk", "storage", "attach"]
    assert options_of(attach)["--mount-point"] == "/gcs/my-bucket"
    assert create[:3] == ["xpk", "workload", "create"]
    options = options_of(create)
    assert options["--tpu-type"] == "v5litepod-16x16" and options["--num-slices"] == "2"
    assert options["--restart-on-exit-codes"] == "1,75"
    assert options["--command"].startswith("python -m launch.worker train --config configs/flamingo_9b.py")


def test_the_image_is_built_from_the_checkout(nothing_runs):
    build, push = commands(dry_run("gke", "image --image r/mmjax:1"))
    assert build[:2] == ["docker", "build"] and build[-1] == "."
    assert pathlib.Path(options_of(build)["--file"]).exists()
    assert push == ["docker", "push", "r/mmjax:1"]


@pytest.mark.parametrize(
    "words, said",
    [
        (f"{SUBMIT} --topology v5p:3x4x4", "the nearest is v5p:"),
        (f"{SUBMIT} --topology v5e:2x2 --slices 2", "several hosts only"),
        (f"{SUBMIT} --topology v5e:4x4 --slices 0", "--slices must be 1 or more"),
        (f"{SUBMIT} --topology v5e:4x4 --max-restarts -1", "--max-restarts must be 0 or more"),
        (f"{SUBMIT} --topology v5e:4x4 --env A", "give KEY=VALUE"),
        (f"{SUBMIT} --topology v5e:4x4 --workdir /tmp/demo", "lives in a bucket: gs://BUCKET/PATH"),
        (f"{SUBMIT} --topology v5e:4x4 --workdir gs://my-bucket", "gs://my-bucket/PATH"),
        (f"{SUBMIT} --topology v5e:4x4 --bucket 'a b'", "not the name of a bucket"),
        (f"{SUBMIT} --topology v5e:4x4 --config configs/none.py", "there is no file configs/none.py"),
        (f"{SUBMIT} --topology v5e:4x4 --config /etc/hosts", "outside of"),
        (f"{SUBMIT} --topology v5e:4x4 --name Demo_1", "lower-case letters"),
        ("status --name demo -- --config.batch_size=1", "takes no arguments after --"),
    ],
)
def test_what_cannot_be_is_refused_with_exit_code_2(nothing_runs, capsys, words, said):
    assert main(gke.make_parser(), shlex.split(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_an_unknown_option_is_one_line(nothing_runs, capsys):
    with pytest.raises(SystemExit) as caught:
        main(gke.make_parser(), ["submit", "--nmae", "demo"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
