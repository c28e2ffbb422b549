"""A run from its first step to its report by the command line, at the tiny size; and what goes wrong on the way."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mmjax.evaluation.benchmarks.table import BENCHMARKS
from tests.cli.program import run_program
from tests.evaluation import made

CONFIG = "configs/flamingo_digits.py:tiny"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, standard output, standard error) of a run of four steps by the installed program, on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    code, out, err = run_program("train", "--config", CONFIG, "--workdir", workdir, "--json", **quickly)
    assert code == 0, err
    return workdir, out, err


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(trained[0], tmp_path / "run")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "scan.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(path)
    return path


def test_training_tells_where_it_ended(trained):
    workdir, out, err = trained
    assert json.loads(out) == {"step": 4, "stopped_by": "", "checkpoint": str(workdir / "checkpoints" / "4")}
    assert "step 4/4" in err and "compiled in" in err and "Traceback" not in err
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all({"loss", "tokens_per_second", "useful_token_share"} <= line.keys() for line in lines)
    resolved = json.loads((workdir / "config.json").read_text())
    assert resolved["data"]["sources"]["read"]["options"]["holdout"] == "random"  # defaults are spelled out


def test_the_same_command_again_has_nothing_to_do(workdir, mmjax):
    code, out, err = mmjax("train", "--config", CONFIG, "--workdir", workdir)
    assert code == 0 and "nothing is left to do" in err
    assert out == (f"trained to step 4; checkpoint {workdir}/checkpoints/4\nnext: mmjax eval --checkpoint {workdir}\n")


def test_other_data_than_the_run_has_read_are_refused(workdir, mmjax):
    code, out, err = mmjax("train", "--config", CONFIG, "--workdir", workdir, "--config.seed=1")
    assert (code, out) == (2, "")
    assert "error: the run in " in err and "read other data than this configuration describes" in err


def test_what_a_run_has_read_is_listed_from_its_workdir(trained, mmjax, tmp_path):
    workdir, _, _ = trained
    (segment,) = json.loads((workdir / "stream.json").read_text())
    assert segment["begun"] == {"step": 0, "rows": {}}
    asked = ("data", "ids", "--config", CONFIG, "--steps", "1:4", "--json")
    listed = mmjax(*asked, "--workdir", workdir)
    assert listed == mmjax(*asked)
    assert [json.loads(line)["step"] for line in listed[1].splitlines()] == [1, 2, 3]
    position = json.loads((workdir / "checkpoints" / "4" / "manifest.json").read_text())["position"]
    rows = {name: count for name, count in position.items() if name.startswith("rows/")}
    assert position["step"] == 4 and sum(rows.values()) == 4 * segment["batch_size"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    code, _, err = mmjax(*asked, "--workdir", tmp_path)
    assert code == 2 and "has no stream.json" in err


@pytest.mark.parametrize("where", ["", "checkpoints", "checkpoints/2"])
def test_inspect(where, trained, mmjax):
    workdir, _, _ = trained
    code, out, err = mmjax("inspect", workdir / where, "--json")
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert record["step"] == (2 if where.endswith("2") else 4)
    assert len(record["sha256"]) == 64
    assert record["parameters"] == sum(part["count"] for part in record["parts"].values())
    assert {"vision", "resampler", "cross_attention", "language"} <= record["parts"].keys()
    assert all(part["bytes"] == 4 * part["count"] for part in record["parts"].values())
    code, out, _ = mmjax("inspect", workdir / where)
    assert code == 0 and record["sha256"] in out and f"{record['parameters']:,}" in out


def test_inspect_of_a_configuration_counts_what_a_run_of_it_has(trained, mmjax):
    code, out, err = mmjax("inspect", "--config", CONFIG, "--json")
    assert (code, err) == (0, "")
    planned, made = json.loads(out), json.loads(mmjax("inspect", trained[0], "--json")[1])
    assert planned["parameters"] == made["parameters"] == planned["trainable"]
    assert planned["parts"] == made["parts"]
    code, out, _ = mmjax("inspect", "--config", "flamingo_3b")
    assert code == 0 and "trainable: 1," in out  # frozen vision and language


def test_a_damaged_step_is_named_and_the_older_one_answers(workdir, mmjax):
    files = [path for path in (workdir / "checkpoints" / "4").rglob("*") if path.is_file() and path.suffix != ".json"]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    code, out, err = mmjax("inspect", workdir, "--json")
    assert code == 0 and json.loads(out)["step"] == 2
    assert err.startswith("warning: checkpoint ") and "/checkpoints/4 is damaged" in err and err.count("\n") == 1
    code, out, err = mmjax("inspect", workdir / "checkpoints" / "4")
    assert (code, out) == (1, "") and err.startswith("error: checkpoint ") and err.count("\n") == 1


def test_eval_writes_scores_and_prints_them(workdir, mmjax):
    options = ("--tasks", "read_single,bind_2way", "--shots", "1", "--queries", "4", "--seeds", "2")
    code, out, err = mmjax("eval", "--checkpoint", workdir, *options, "--json")
    assert code == 0 and err == f"evaluating {workdir} at step 4\n"
    rows = json.loads(out)
    assert rows == json.loads((workdir / "scores.json").read_text())
    assert {(row["task"], row["shots"], row["selection"], row["control"]) for row in rows} == {
        ("read_single", 0, "random", "none"),
        ("read_single", 0, "random", "blanked"),
        ("bind_2way", 1, "balanced", "none"),
        ("bind_2way", 1, "balanced", "blanked"),
    }
    for row in rows:
        assert row["seeds"] == 2 and row["n"] == 8
        assert 0 <= row["low"] <= row["score"] <= row["high"] <= 1
    assert len((workdir / "predictions.jsonl").read_text().splitlines()) == 32
    code, out, _ = mmjax("eval", "--checkpoint", workdir, *options)
    assert code == 0 and "95% interval" in out and f"next: mmjax report --workdir {workdir}" in out
    code, out, _ = mmjax("report", "--workdir", workdir, "--json")
    assert code == 0
    assert json.loads(out) == {
        "report": str(workdir / "report.html"),
        "checkpoint": str(workdir / "checkpoints" / "4"),
    }
    assert "bind_2way" in (workdir / "report.html").read_text()
    code, out, _ = mmjax("report", "--workdir", workdir)
    assert code == 0 and "next:       mmjax generate --checkpoint" in out and "95% interval" in out


def test_eval_asks_a_benchmark_and_compares_itself(trained, tmp_path, mmjax, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "made_vqa", made.WRITTEN)
    data, out = made.write_files(tmp_path / "data", test=4, train=4), tmp_path / "out"
    asked = (
        "--task",
        "made_vqa",
        "--data",
        data,
        "--shots",
        "1",
        "--selection",
        "rices",
        "--controls",
        "",
        "--out",
        out,
    )
    code, shown, err = mmjax("eval", "--checkpoint", trained[0], *asked, "--json")
    assert code == 0, err
    [row] = json.loads(shown)
    assert (row["task"], row["selection"], row["n"], row["seeds"]) == ("made_vqa", "rices", 4, 1)
    assert row["official"] == {"accuracy": pytest.approx(100 * row["score"])}
    predictions = (out / "predictions.jsonl").read_bytes()
    assert predictions.count(b"\n") == 4 and (out / "results" / "made_vqa-1-rices-none-0" / "results.json").is_file()
    assert "Worst predictions" in (out / "evaluation.html").read_text()
    assert len(list((data / ".mmjax").glob("features-*.npy"))) == 2
    code, shown, _ = mmjax("eval", "--compare", out, out / "predictions.jsonl")
    assert code == 0 and "made_vqa, 1 shots, rices, none" in shown and "p 1.0000" in shown
    about = json.loads((out / "evaluation.json").read_text())
    assert len(about["weights"]) == 24 and about["options"]["shots"] == [1]


def test_eval_lists_its_tasks(trained, mmjax):
    code, out, err = mmjax("eval", "--checkpoint", trained[0], "--list")
    names = [line.split()[0] for line in out.splitlines()]
    assert (code, err) == (0, "") and {"read_single", "bind_2way", "bind_2way_heldout", "vqav2"} <= set(names)
    listed = json.loads(mmjax("eval", "--checkpoint", trained[0], "--list", "--json")[1])
    assert names == [*listed["digits"], *listed["benchmarks"]]
    assert "v2_OpenEnded_mscoco_val2014_questions.json" in listed["benchmarks"]["vqav2"]
    assert json.loads(mmjax("eval", "--list", "--json")[1]) == {**listed, "digits": []}


def test_generate(trained, picture, mmjax):
    options = ("--checkpoint", trained[0], "--image", picture, "--max-tokens", "3")
    code, out, err = mmjax("generate", *options, "--shot", f"{picture}:this is a dax.", "--prompt", "this", "--json")
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert record["prompt"] == "<image>this is a dax.<image>this"
    assert 1 <= len(record["tokens"]) == len(record["log_probabilities"]) <= 3
    assert all(value <= 0.0 for value in record["log_probabilities"])
    assert record["ended_by"] in ("length", "end_of_chunk", "eos")
    code, out, err = mmjax("generate", *options, "--prompt", "see <image> here")
    assert (code, err) == (0, "") and out.startswith("see <image> here")
    assert mmjax("generate", *options, "--prompt", "see <image> here") == (code, out, err)  # greedy: the same again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "<image>a<image>b"], "the prompt has 2 <image> marks but 1 picture; give a picture for each"),
        (["--prompt", "x", "--image", "PICTURE"], "2 pictures but no <image> marks in the prompt; write <image> where"),
        (["--image", "none.png"], "none.png cannot be read: No such file or directory"),
        (["--image", "broken.png"], "broken.png cannot be decoded, the file is truncated"),
        (["--image", "text.png"], "text.png is not a picture in a known format"),
        (["--shot", "PICTURE"], '--shot must be FILE:TEXT, such as a.png:"this is a dax.", not '),
        (["--shot", "none.png:a dax"], "none.png cannot be read: No such file or directory"),
        (["--max-tokens", "0"], "--max-tokens must be 1 or more, not 0"),
        (["--temperature", "-1"], "temperature must be 0 (greedy) or more, not -1.0"),
        (["--top-p", "0"], "top_p must be above 0 and at most 1, not 0.0"),
    ],
)
def test_prompts_that_cannot_be_continued(arguments, message, trained, picture, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:-1500])
    (tmp_path / "text.png").write_text("no picture")
    words = [str(picture) if word == "PICTURE" else word for word in arguments]
    line = refused("generate", "--checkpoint", trained[0], "--image", picture, *words)
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "bind_2wya"], "there is no task 'bind_2wya'; did you mean bind_2way?"),
        (["--controls", "blnked"], "there is no control 'blnked'; did you mean blanked?"),
        (["--shots", "1,x"], "--shots must be whole numbers with commas between, such as 0,1,2,4, not '1,x'"),
        (["--seeds", "0"], "--seeds must be 1 or more, not 0"),
        (["--queries", "0"], "--queries must be 1 or more, not 0"),
        (["--tasks", "vqav2"], "vqav2 reads v2_OpenEnded_mscoco_val2014_questions.json"),
        (["--model", "DIR"], "give what to evaluate: --checkpoint PATH of a run, or --model DIR"),
    ],
)
def test_evaluations_that_cannot_be_made(arguments, message, trained, refused):
    assert refused("eval", "--checkpoint", trained[0], *arguments).startswith(message)


@pytest.mark.parametrize("command", [["eval", "--checkpoint"], ["generate", "--checkpoint"], ["report", "--workdir"]])
def test_where_there_is_no_run(command, refused, tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        assert refused(*command, path) == (
            f"{path} is not the workdir of a run, nor a checkpoint in one (no config.json and checkpoints/)"
        )


def test_other_places_without_a_run(refused, mmjax, trained, tmp_path):
    assert refused("inspect", tmp_path).startswith(f"{tmp_path} holds no checkpoint; give a run's working directory")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        assert refused("train", "--config", CONFIG, "--workdir", place).startswith(f"--workdir {place} cannot be used")
    code, out, err = mmjax("eval", "--checkpoint", trained[0] / "checkpoints" / "3")
    assert code in (1, 2) and out == "" and "3" in err and err.count("error: ") == 1 and "Traceback" not in err
