"""Our models in lmms-eval: how its requests become prompts; a local task through the package, where it is installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from third_party.lmms_eval.requests import Writing, groups_of, is_beginning, prompt_of, writing_of

ROOT = Path(__file__).parents[2]
RED, BLUE = Image.new("RGB", (9, 7), "red"), Image.new("L", (6, 6), 40)

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed (third_party/README.md)"
)


def spelled(prompt):
    return ["picture" if isinstance(one, Media) else one.text for one in prompt.segments]


def test_pictures_stand_where_the_context_or_the_template_says():
    assert spelled(prompt_of("What is it?", [RED, BLUE], "{context}")) == ["picture", "picture", "What is it?"]
    assert spelled(prompt_of("<image> or <image>?", [RED, BLUE], "{context}")) == ["picture", " or ", "picture", "?"]
    vicuna = "USER: <image>\n{context} ASSISTANT:"
    assert spelled(prompt_of("What is it?", [RED], vicuna)) == ["USER: ", "picture", "\nWhat is it? ASSISTANT:"]
    marked = prompt_of("A <image> B", [RED], vicuna)
    assert spelled(marked) == ["USER: \nA ", "picture", " B ASSISTANT:"]
    assert spelled(prompt_of("no picture", [], vicuna)) == ["USER: ", "\nno picture ASSISTANT:"]
    first, second = (medium.load()[0] for medium in prompt_of("", [RED, BLUE], "{context}").media)
    assert first.shape == (7, 9, 3) and second.shape == (6, 6, 3) and first.dtype == np.uint8


def test_what_is_no_picture_or_has_no_place_is_refused():
    with pytest.raises(InputError, match="2 <image> and 1 pictures"):
        prompt_of("<image> <image>", [RED], "{context}")
    with pytest.raises(InputError, match="not str: no video"):
        prompt_of("what?", ["clip.mp4"], "{context}")


def test_settings_of_writing():
    assert writing_of({}) == Writing(256, (), 1)
    settings = {"max_new_tokens": 16, "until": "\n\n", "num_beams": 3, "temperature": 0, "do_sample": False}
    assert writing_of(settings) == Writing(16, ("\n\n",), 3)
    with pytest.raises(InputError, match="greedily"):
        writing_of({"temperature": 0.7})
    with pytest.raises(InputError, match="min_p cannot be set"):
        writing_of({"min_p": 0.1})


def test_continuations_of_one_document_are_rated_together():
    docs = {"t": {"test": [{"x": "a"}, {"x": "b"}]}}

    def visuals(doc):
        return [RED] if doc["x"] == "a" else None

    requests = [
        ("q", " yes", visuals, 0, "t", "test"),
        ("q", " no", visuals, 0, "t", "test"),
        ("q", lambda doc: f" {doc['x']}", visuals, 1, "t", "test"),
        ("", " alone"),
    ]
    groups = list(groups_of(requests, lambda task, split, number: docs[task][split][number]))
    assert [group.numbers for group in groups] == [(0, 1), (2,), (3,)]
    assert [group.continuations for group in groups] == [(" yes", " no"), (" b",), (" alone",)]
    assert [list(group.visuals()) for group in groups] == [[RED], [], []]


def test_a_continuation_that_greedy_writing_begins_with():
    assert is_beginning(" red", "red car") and not is_beginning(" red", "a red") and not is_beginning(" ", "red")


TASK = """
task: mmjax_{name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/docs.jsonl}}
  cache_dir: {folder}/cache
test_split: test
output_type: {kind}
doc_to_visual: !function visuals.visuals
doc_to_text: "{{{{question}}}}"
{more}
"""
WRITES = """doc_to_target: "{{answer}}"
generation_kwargs: {max_new_tokens: 5, until: ["\\n"], temperature: 0, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
CHOOSES = """doc_to_target: "{{options.index(answer)}}"
doc_to_choice: "{{options}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@needs_package
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_local_task_gives_what_the_model_itself_gives(tmp_path):
    """Answers written and chosen through lmms-eval, beside those of the model asked by hand."""
    import mmjax
    from mmjax.evaluation.models.released import ReleasedModel
    from tests.interop.test_pretrained import llava

    model = tmp_path / "model"
    llava(model)
    colours = ["red", "lime", "blue"]
    for name in colours:
        Image.new("RGB", (30, 24), name).save(tmp_path / f"{name}.png")
    ours = ReleasedModel(mmjax.load_pretrained(model))
    prompts = [prompt_of("a house in the", [Image.open(tmp_path / f"{name}.png")], "{context}") for name in colours]
    written = ours.write(prompts, max_tokens=5, stop=["\n"], beams=1, progress=lambda count: None)
    options = ["a cat", "two dogs"]
    told = ours.rate(prompts, [[Text(f" {one}") for one in options]] * 3, progress=lambda count: None)
    losses = [-one.log_likelihoods / np.array(one.lengths) for one in told]
    chosen = [options[int(np.argmin(one))] for one in losses]
    # The first answer of the file is what the model would choose; the others are not.
    docs = [
        {
            "question": "a house in the",
            "picture": str(tmp_path / f"{name}.png"),
            "answer": chosen[number] if number == 0 else next(one for one in options if one != chosen[number]),
            "options": options,
        }
        for number, name in enumerate(colours)
    ]
    (tmp_path / "visuals.py").write_text(
        "from PIL import Image\n\n\ndef visuals(doc):\n    return [Image.open(doc['picture'])]\n"
    )
    for name, kind, more in (("writes", "generate_until", WRITES), ("chooses", "multiple_choice", CHOOSES)):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, kind=kind, folder=tmp_path, more=more))
    (tmp_path / "docs.jsonl").write_text("".join(f"{json.dumps(doc)}\n" for doc in docs))
    command = [
        *(sys.executable, "-m", "third_party.lmms_eval", "--model", "mmjax"),
        *("--model_args", f"pretrained={model}", "--tasks", "mmjax_writes,mmjax_chooses", "--batch_size", "2"),
        *("--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1000, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    samples = {}
    for path in (tmp_path / "out").rglob("*_samples_mmjax_*.jsonl"):
        name = path.stem.rpartition("_")[2]
        samples[name] = [json.loads(line) for line in path.read_text().splitlines()]
    by_hand = [text.strip() for text in written]
    assert [row["filtered_resps"] for row in sorted(samples["writes"], key=lambda row: row["doc_id"])] == by_hand
    (results,) = (tmp_path / "out").rglob("*_results.json")
    scores = json.loads(results.read_text())["results"]
    assert scores["mmjax_chooses"]["acc,none"] == pytest.approx(1 / 3)
    rows = sorted(samples["chooses"], key=lambda row: row["doc_id"])
    found = [[float(loss) for loss, _ in row["filtered_resps"]] for row in rows]
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    greedy = [[one == "True" for _, one in row["filtered_resps"]] for row in rows]
    assert greedy == [[is_beginning(one, text) for one in options] for text in by_hand]
