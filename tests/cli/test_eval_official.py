"""`mmjax eval` on official files: our code and transformers answer alike, and the official scorer says the same."""

from __future__ import annotations

import json

import pytest

from tests.evaluation.benchmarks.made import karpathy, vqav2
from tests.evaluation.models.test_transformers_model import CLIP, TEXT, VISION
from tests.interop.test_pretrained import llava
from tests.interop.test_processing_prompts import pictures_side, tokenizer
from tests.parity.reference_models import build, transformers

pytestmark = pytest.mark.usefixtures("quick_programs", "no_java")


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    llava(folder)
    return folder


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder, names = tmp_path_factory.mktemp("clip"), tokenizer()
    # Captions have more tokens than these towers' tests need elsewhere.
    text = {"vocab_size": len(names), **TEXT, "max_position_embeddings": 80, "eos_token_id": names.eos_token_id}
    build("CLIPModel", "CLIPConfig", 5, vision_config=VISION, text_config=text, projection_dim=18).save_pretrained(
        folder
    )
    transformers.CLIPProcessor(pictures_side("CLIPImageProcessor", **CLIP), names).save_pretrained(folder)
    return folder


def evaluated(mmjax, model, task, data, out, *more):
    code, _, err = mmjax("eval", "--model", model, "--task", task, "--data", data, "--out", out, *more)
    assert code == 0, err
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    return rows, json.loads((out / "scores.json").read_text())


def both(mmjax, folder, task, data, tmp_path, *more):
    """Predictions and scores of our code, which are those of transformers."""
    (rows, ours), (others, theirs) = (
        evaluated(mmjax, model, task, data, tmp_path / name, *more)
        for name, model in (("ours", folder), ("theirs", f"hf:{folder}"))
    )
    for name in ("prompt", "prediction"):
        assert [row[name] for row in rows] == [row[name] for row in others]
    for one, other in zip(ours, theirs, strict=True):
        assert one["official"] == pytest.approx(other["official"])
    return rows, ours


def learned(task, data, rows):
    """Writes the files anew: two of the references are what the model answers without shots."""
    told = {row["id"]: row["prediction"] for row in rows if row["control"] == "none"}
    told = dict(sorted(told.items())[:2])
    name = {"vqav2": "v2_mscoco_val2014_annotations.json", "coco_caption": "dataset_coco.json"}[task]
    tree = json.loads((data / name).read_text())
    if task == "vqav2":
        for row in tree["annotations"]:
            # One of the ten stays: where all agree, the official code leaves them as they are spelled.
            for answer in row["answers"][:9]:
                answer["answer"] = told.get(str(row["question_id"]), answer["answer"])
    else:
        for row in tree["images"]:
            for sentence in row["sentences"]:
                sentence["raw"] = told.get(str(row["cocoid"]), sentence["raw"])
    (data / name).write_text(json.dumps(tree))


@pytest.mark.parametrize("task, make", [("vqav2", vqav2), ("coco_caption", karpathy)])
def test_texts(task, make, mmjax, speaker, tmp_path):
    data = tmp_path / "data"
    make(data)
    learned(task, data, evaluated(mmjax, speaker, task, data, tmp_path / "first", "--shots", "0")[0])
    rows, scores = both(mmjax, speaker, task, data, tmp_path, "--shots", "0,2", "--seeds", "1")
    assert {row["shots"] for row in rows} == {0, 2} and scores[0]["score"] > 0.02
    references = {
        "vqav2": (data / "v2_mscoco_val2014_annotations.json", data / "v2_OpenEnded_mscoco_val2014_questions.json"),
        "coco_caption": (data / "dataset_coco.json",),
    }[task]
    for score in scores:
        name = "-".join(str(score[key]) for key in ("task", "shots", "selection", "control"))
        [results] = (tmp_path / "ours" / "results" / f"{name}-0").iterdir()
        files = zip(("--references", "--questions"), references, strict=False)
        given = [item for pair in files for item in pair]
        code, out, err = mmjax("score", "--task", task, "--predictions", results, *given, "--json")
        assert code == 0, err
        told = json.loads(out)["scores"]
        shared = told.keys() & score["official"].keys()
        expected = {key: score["official"][key] for key in shared}  # six decimals are kept
        assert shared and {key: told[key] for key in shared} == pytest.approx(expected, abs=1e-6)


def test_retrieval(mmjax, towers, tmp_path):
    karpathy(tmp_path / "data")
    rows, [score] = both(mmjax, towers, "coco_retrieval", tmp_path / "data", tmp_path)
    assert len(rows) == 3 and score["official"]
