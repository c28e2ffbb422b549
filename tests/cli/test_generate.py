"""`mmjax generate` with a folder in the layout of transformers, and with a run whose pictures stand in the text."""

import json

import numpy as np
import pytest
from PIL import Image

import mmjax as package

pytest.importorskip("torch", reason="the reference implementations need torch, which this Python does not have")
from tests.cli.program import run_program
from tests.interop.test_pretrained import llava


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick_programs):
    path = tmp_path_factory.mktemp("model") / "llava"
    llava(path)
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "scan.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def records(mmjax, folder, picture):
    """Runs `mmjax generate --json` after "<image> a cat": its lines."""

    def run(*options):
        prompt = ("--image", picture, "--prompt", "<image> a cat", "--max-tokens", "6")
        code, out, err = mmjax("generate", "--model", folder, *prompt, *options, "--json")
        assert (code, err) == (0, ""), err
        return [json.loads(line) for line in out.splitlines()]

    return run


def test_a_folder_of_transformers(records, folder, picture, mmjax):
    loaded, image = package.load_pretrained(folder), Image.open(picture)
    [greedy] = records()
    assert loaded.answer("<image> a cat", [[image]], max_new_tokens=6) == [greedy["text"]]
    assert greedy["prompt"] == "<image> a cat" and 1 <= len(greedy["tokens"]) <= 6
    assert len(greedy["log_probabilities"]) == len(greedy["tokens"]) and max(greedy["log_probabilities"]) <= 0

    texts = loaded.answer("<image> a cat", [[image]], max_new_tokens=6, num_beams=3, num_return_sequences=2)
    best = records("--beams", "3", "--samples", "2")
    assert [one["text"] for one in best] == texts and best[0]["score"] >= best[1]["score"]
    drawn = records("--temperature", "1.5", "--samples", "3", "--seed", "4", "--top-k", "9", "--min-p", "0.01")
    assert len({tuple(one["tokens"]) for one in drawn}) == 3

    stop = greedy["text"][1:3]
    [stopped] = records("--stop", stop)
    assert stopped["ended_by"] == "stop" and stopped["text"] == greedy["text"][: greedy["text"].index(stop)]
    [chosen] = records("--choices", "a red car,two dogs")
    assert chosen["text"] == ("a red car", "two dogs")[chosen["choice"]] and chosen["ended_by"] == "eos"
    code, out, _ = mmjax("generate", "--model", folder, "--prompt", "a cat", "--max-tokens", "2")
    assert code == 0 and out.startswith("a cat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "2"], "greedy decoding has one result"),
        (["--beams", "2", "--temperature", "1"], "beams are searched, not drawn"),
        (["--beams", "0"], "--beams must be 1 or more, not 0"),
        (["--choices", "a,,b"], "--choices must be answers with commas between, such as cat,dog, not 'a,,b'"),
        (["--min-p", "2"], "min_p must be from 0"),
        (["--no-repeat-ngram", "-1"], "no_repeat_ngram must be 0"),
        (["--image", "none.png"], "none.png cannot be read"),
    ],
)
def test_what_cannot_be_written(options, message, folder, refused):
    assert refused("generate", "--model", folder, "--prompt", "a", *options).startswith(message)


def test_there_is_one_source(mmjax, folder):
    assert "one of the arguments --checkpoint --model is required" in mmjax("generate", "--prompt", "a")[2]
    assert "not allowed with" in mmjax("generate", "--prompt", "a", "--model", folder, "--checkpoint", folder)[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava_1_5_7b", "paligemma_3b"])
def test_a_run_whose_pictures_stand_in_the_text(name, mmjax, picture, tmp_path):
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    config = ("--config", f"configs/{name}.py:tiny", "--config.total_steps=1")
    code, _, err = run_program("train", *config, "--workdir", tmp_path / "run", **quickly)
    assert code == 0, err
    options = ("--image", picture, "--prompt", "what?", "--max-tokens", "3", "--json")
    code, out, err = mmjax("generate", "--checkpoint", tmp_path / "run", *options, "--choices", "a dax,a fep")
    assert code == 0, err
    record = json.loads(out)
    assert record["prompt"] == "<image>what?" and record["text"] in ("a dax", "a fep")
