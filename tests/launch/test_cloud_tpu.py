"""Commands for Cloud TPU VMs; the scripts on the hosts are run for real, and `up` against a stand-in for gcloud."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch import cloud_tpu
from launch.options import main
from tests.launch.dry_runs import commands, dry_run, options_of

HOSTS = pathlib.Path(cloud_tpu.__file__).parent / "hosts"
WHERE = "--name demo --zone us-east5-a"
RUN = "--config configs/flamingo_9b.py --workdir gs://my-bucket/demo"


def create(words):
    request, wait = commands(dry_run("cloud_tpu", f"create {WHERE} {words}"))
    assert request[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "demo"]
    assert wait[0] == "until"
    return request


@pytest.mark.parametrize(
    "topology, kind, software",
    [
        ("v5p:8x8x16", "v5p-2048", "v2-alpha-tpuv5"),
        ("v5e:16x16", "v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v6e:16x16", "v6e-256", "v2-alpha-tpuv6e"),
    ],
)
def test_a_slice_is_requested_by_its_type(nothing_runs, topology, kind, software):
    options = options_of(create(f"--topology {topology}"))
    assert options["--accelerator-type"] == kind and options["--runtime-version"] == software
    assert options["--node-id"] == "demo" and options["--zone"] == "us-east5-a"


def test_v4_is_requested_by_its_shape_and_several_slices_by_their_number(nothing_runs):
    request = create("--topology v4:8x12x16 --slices 2 --spot")
    options = options_of(request)
    assert (options["--type"], options["--topology"]) == ("v4", "8x12x16")
    assert (options["--node-count"], options["--node-prefix"]) == ("2", "demo")
    assert "--spot" in request and "--node-id" not in options


def test_up_is_create_setup_start_and_wait(nothing_runs):
    words = f"up {WHERE} --topology v5e:16x16 {RUN} --bucket data --env A='x y' -- --config.batch_size=512"
    made = commands(dry_run("cloud_tpu", words))
    verbs = [command[4] if command[:2] == ["gcloud", "compute"] else command[0] for command in made]
    assert verbs == ["create", "until", "sh", "git", "scp", "ssh", "ssh", "ssh"]
    install, start, wait = (options_of(command)["--command"] for command in made[5:])
    assert install.endswith("bash mmjax/launch/hosts/install.sh my-bucket data")
    assert shlex.split(start) == [
        *("bash", "mmjax/launch/hosts/job.sh", "start", "demo", "A=x y"),
        *("JAX_COMPILATION_CACHE_DIR=/gcs/my-bucket/demo/compiled", "--", "train"),
        *("--config", "configs/flamingo_9b.py", "--workdir", "/gcs/my-bucket/demo", "--config.batch_size=512"),
    ]
    assert wait == "bash mmjax/launch/hosts/job.sh wait demo"
    for command in made[4:]:
        assert {"--node=all", "--worker=all"} <= set(command)


@pytest.mark.parametrize("verb", ["setup", "wait", "status", "logs", "stop", "delete"])
def test_every_verb_has_a_dry_run(nothing_runs, verb):
    assert commands(dry_run("cloud_tpu", f"{verb} {WHERE} --project p"))


@pytest.mark.parametrize(
    "topology, said",
    [
        ("7x:4x4x4", "does not have this generation; use python -m launch.gke"),
        ("v5p:4x4x16", "gives 256 chips as v5p:4x8x8"),
    ],
)
def test_what_the_api_does_not_give_is_refused(nothing_runs, capsys, topology, said):
    assert main(cloud_tpu.make_parser(), ["create", *WHERE.split(), "--topology", topology]) == 2
    assert said in capsys.readouterr().err


def test_nothing_is_created_or_deleted_without_a_yes(nothing_runs, capsys):
    assert main(cloud_tpu.make_parser(), ["delete", *WHERE.split()]) == 2
    assert main(cloud_tpu.make_parser(), ["create", *WHERE.split(), "--topology", "v5e:4x4"]) == 2
    assert capsys.readouterr().err.count("give --yes, or --dry-run") == 2


# A stand-in for gcloud: appends its arguments to $FAKE/log and plays the rounds of $FAKE/rounds, a word each.
FAKE_GCLOUD = """#!/usr/bin/env bash
echo "$*" >>"$FAKE/log"
round=$(head -n 1 "$FAKE/rounds")
case "$*" in
*" create "*) echo ACTIVE >"$FAKE/state" ;;
*" delete "*) rm "$FAKE/state" ;;
*" list "*) cat "$FAKE/state" 2>/dev/null ;;
*"job.sh wait"*)
  sed -i 1d "$FAKE/rounds"
  case "$round" in
  taken) echo SUSPENDED >"$FAKE/state"; exit 255 ;;
  crashed | wrong) echo "$round" >"$FAKE/ended"; exit 1 ;;
  esac
  ;;
*"job.sh status"*)
  [ "$(cat "$FAKE/state")" = ACTIVE ] || exit 255
  if [ "$(cat "$FAKE/ended" 2>/dev/null)" = wrong ]; then echo "ended 2"; else echo "ended 1"; fi
  ;;
esac
exit 0
"""


@pytest.fixture
def fake_gcloud(tmp_path, monkeypatch):
    """A machine on which gcloud, git and sh do no more than write down what was asked of them."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("gcloud", FAKE_GCLOUD), ("git", "#!/usr/bin/env bash\n"), ("sh", "#!/usr/bin/env bash\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setattr(cloud_tpu, "PAUSE_SECONDS", 0.0)

    def play(*rounds):
        (tmp_path / "rounds").write_text("".join(f"{word}\n" for word in rounds))
        words = f"up {WHERE} --topology v5e:16x16 {RUN} --yes --max-restarts 2"
        code = main(cloud_tpu.make_parser(), words.split())
        log = (tmp_path / "log").read_text().splitlines()
        return code, [
            next((verb for verb in ("create", "delete", "scp", "start") if f" {verb} " in line), "") for line in log
        ]

    return play


def asked(log, verb):
    return log.count(verb)


def test_a_slice_that_is_taken_away_is_requested_again(fake_gcloud):
    code, log = fake_gcloud("taken", "finished")
    assert code == 0
    assert (asked(log, "create"), asked(log, "delete"), asked(log, "start")) == (2, 1, 2)


def test_a_crash_is_started_again_on_the_same_slice(fake_gcloud):
    code, log = fake_gcloud("crashed", "finished")
    assert code == 0
    assert (asked(log, "create"), asked(log, "delete"), asked(log, "start")) == (1, 0, 2)


def test_wrong_input_is_not_tried_again(fake_gcloud, capsys):
    code, log = fake_gcloud("wrong", "finished")
    assert code == 1
    assert asked(log, "start") == 1
    assert "job.sh wait demo' failed with exit code 1" in capsys.readouterr().err


def test_a_run_that_never_finishes_is_given_up(fake_gcloud, capsys):
    code, log = fake_gcloud("crashed", "crashed", "crashed")
    assert code == 1
    assert asked(log, "start") == 3
    assert "started 3 times and is not finished" in capsys.readouterr().err


# Stands for `python -m launch.worker ...` on a host: ends as it is told, and saves on SIGTERM.
WORKER = f"""#!{sys.executable}
import os, signal, sys, time
def save(number, frame):
    print("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print(sys.argv[3:], os.environ["MODE"], flush=True)
if os.environ["MODE"] == "end":
    sys.exit(7)
time.sleep(60)
"""


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with the checkout at ~/mmjax, whose python is WORKER; runs `job.sh` there."""
    checkout = tmp_path / "mmjax"
    (checkout / ".venv/bin").mkdir(parents=True)
    shutil.copytree(HOSTS, checkout / "launch/hosts")
    (checkout / ".venv/bin/python").write_text(WORKER)
    (checkout / ".venv/bin/python").chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))

    def job(*words):
        script = ["bash", str(checkout / "launch/hosts/job.sh"), *words]
        return subprocess.run(script, capture_output=True, text=True, timeout=60)

    yield job
    pid = tmp_path / "mmjax-runs/demo/pid"
    if job("status", "demo").stdout == "running\n":
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_host_runs_one_start_at_a_time_and_saves_on_stop(host, tmp_path):
    assert host("status", "demo").stdout == "absent\n"
    assert host("start", "demo", "MODE=sleep", "A=x y", "--", "train", "--workdir", "w w").returncode == 0
    log = tmp_path / "mmjax-runs/demo/log"
    deadline = time.monotonic() + 20
    while "sleep" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "['train', '--workdir', 'w w'] sleep" in log.read_text()
    assert host("status", "demo").stdout == "running\n"
    assert host("start", "demo", "MODE=end", "--", "train").stdout == "demo runs already\n"
    assert host("stop", "demo").stdout == "demo ended with exit code 75\n"
    assert host("status", "demo").stdout == "ended 75\n"
    assert "saved" in log.read_text()


def test_waiting_ends_as_the_run_does(host):
    assert host("start", "demo", "MODE=end", "--", "train").returncode == 0
    waited = host("wait", "demo")
    assert waited.returncode == 7 and "['train'] end" in waited.stdout
    assert host("status", "demo").stdout == "ended 7\n"


def test_an_unknown_verb_of_the_host_script_is_an_error(host):
    assert host("begin", "demo").returncode == 2


@pytest.mark.parametrize("script", sorted(HOSTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_on_the_hosts_pass_shellcheck(script):
    program = pathlib.Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([program, script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout
