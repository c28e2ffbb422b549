"""`mmjax score` over files in the official layouts: what it prints, and what it says of files that do not fit."""

import json

import numpy as np
import pytest

from mmjax.evaluation.metrics import java
from mmjax.evaluation.metrics.tasks import SCORING_TASKS


@pytest.fixture
def write(tmp_path):
    """Writes a file: arrays as .npy, texts as they are, lists under .jsonl a line each, everything else as JSON."""

    def put(name, value):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(value, np.ndarray):
            np.save(path, value)
        elif isinstance(value, str):
            path.write_text(value)
        elif name.endswith(".jsonl"):
            path.write_text("".join(f"{json.dumps(row)}\n" for row in value))
        else:
            path.write_text(json.dumps(value))
        return path

    return put


@pytest.fixture
def score(mmjax):
    """Scores with --json: the record that is printed."""

    def run(task, predictions, references=None, *more):
        given = () if references is None else ("--references", references)
        code, out, err = mmjax("score", "--task", task, "--predictions", predictions, *given, *more, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


@pytest.fixture
def _no_java(monkeypatch):
    def absent():
        raise java.Unavailable("there is no Java on this machine")

    monkeypatch.setattr(java, "_java", absent)


CAPTIONS = [{"image_id": 9, "caption": "A red bus."}, {"image_id": 4, "caption": "Two dogs run"}]
WANTED = {"4": ["two dogs running", "dogs"], "9": ["A red bus on a street.", "a bus"]}
COCO = {
    "images": [{"id": 4}, {"id": 9}],
    "annotations": [{"image_id": int(key), "caption": text} for key in ("9", "4") for text in WANTED[key]],
}
KARPATHY = {
    "images": [
        {"cocoid": int(key), "filename": f"{key}.jpg", "split": "test", "sentences": [{"raw": text} for text in texts]}
        for key, texts in WANTED.items()
    ]
    + [{"cocoid": 1, "filename": "1.jpg", "split": "train", "sentences": [{"raw": "a cat"}]}]
}


@pytest.mark.usefixtures("_no_java")
def test_captions_in_three_layouts_have_the_same_scores(write, score):
    predictions = write("captions.json", CAPTIONS)
    found = [score("coco_caption", predictions, write("wanted.json", wanted)) for wanted in (WANTED, COCO, KARPATHY)]
    assert found[0] == found[1] == found[2]
    scores = found[0]["scores"]
    names = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE"]
    assert list(scores) == names and found[0]["count"] == 2
    assert scores["Bleu_1"] == pytest.approx(5 / 6)
    assert scores["METEOR"] is None and "no Java" in found[0]["reasons"]["METEOR"]
    lines = write("captions.jsonl", CAPTIONS)
    assert score("flickr30k", lines, write("wanted.json", WANTED))["scores"] == scores


@pytest.mark.usefixtures("_no_java")
def test_without_json_a_table_is_printed(write, mmjax):
    files = ("--predictions", write("p.json", CAPTIONS), "--references", write("r.json", WANTED))
    code, out, err = mmjax("score", "--task", "coco_caption", *files)
    assert (code, err) == (0, "")
    assert out.startswith("coco_caption: 2 scored; 0 to 1, CIDEr 0 to 10\n  Bleu_1   0.8333\n")
    assert "  METEOR   - (there is no Java on this machine)\n" in out


def vqa_files(write):
    people = {1: ["red"] * 3 + ["blue"] * 7, 2: ["2"] * 10, 3: ["yes"] * 10}
    kinds = {1: "other", 2: "number", 3: "yes/no"}
    annotations = [
        {
            "question_id": key,
            "answer_type": kinds[key],
            "question_type": "what",
            "answers": [{"answer": text, "answer_id": number} for number, text in enumerate(texts, 1)],
        }
        for key, texts in people.items()
    ]
    answers = [
        {"question_id": 3, "answer": "no"},
        {"question_id": 1, "answer": "Red"},
        {"question_id": 2, "answer": "2"},
    ]
    questions = {"questions": [{"question_id": key, "question": "?"} for key in people]}
    return write("a.json", answers), write("r.json", {"annotations": annotations}), write("q.json", questions)


@pytest.mark.parametrize("task", ["vqav2", "okvqa"])
def test_vqa_is_in_percent_and_by_type_of_answer(task, write, score):
    answers, annotations, questions = vqa_files(write)
    found = score(task, answers, annotations, "--questions", questions)
    assert found["scores"] == {
        "accuracy": 63.33,
        "accuracy_other": 90.0,
        "accuracy_number": 100.0,
        "accuracy_yes_no": 0.0,
    }
    assert found["count"] == 3


def test_questions_other_than_the_annotated_ones_are_refused(write, refused):
    answers, annotations, _ = vqa_files(write)
    questions = write("q.json", {"questions": [{"question_id": key} for key in (1, 2, 7)]})
    told = refused(
        "score", "--task", "vqav2", "--predictions", answers, "--references", annotations, "--questions", questions
    )
    assert "are not of the same questions: 2 are in one alone, 3 for one" in told


NLVR = [
    {"identifier": f"dev-{a}-{b}-0", "label": label}
    for a, b, label in ((0, 0, "True"), (0, 1, "False"), (1, 0, "True"))
]
GQA = {
    "1": {"answer": "red", "isBalanced": True, "types": {"structural": "query"}},
    "2": {"answer": "yes", "isBalanced": True, "types": {"structural": "verify"}},
    "3": {"answer": "no", "isBalanced": False, "types": {"structural": "verify"}},
}
MEMES = [{"id": 42, "label": 1}, {"id": 7, "label": 0}, {"id": 8, "label": 1}]


@pytest.mark.parametrize(
    ("task", "predictions", "references", "expected"),
    [
        (
            "textvqa",
            ("p.json", [{"question_id": 5, "answer": "Coke."}, {"question_id": 6, "answer": "pepsi"}]),
            (
                "r.json",
                {"data": [{"question_id": 5, "answers": ["coke"] * 10}, {"question_id": 6, "answers": ["x"] * 10}]},
            ),
            {"accuracy": 50.0},
        ),
        (
            "vizwiz",
            ("p.json", [{"image": "a.jpg", "answer": "A dog"}]),
            ("r.json", [{"image": "a.jpg", "answers": [{"answer": "dog"}] * 2 + [{"answer": "cat"}] * 8}]),
            {"accuracy": 60.0},
        ),
        (
            "docvqa",
            ("p.json", [{"questionId": 1, "answer": "kitten"}, {"questionId": 2, "answer": "abc"}]),
            (
                "r.json",
                {"data": [{"questionId": 1, "answers": ["sitting"]}, {"questionId": 2, "answers": ["axy", "q"]}]},
            ),
            {"ANLS": (1 - 3 / 7) / 2},
        ),
        (
            "chartqa",
            (
                "p.json",
                [{"imgname": "a", "query": "how", "answer": "104"}, {"imgname": "a", "query": "who", "answer": "x"}],
            ),
            (
                "r.json",
                [{"imgname": "a", "query": "who", "label": "y"}, {"imgname": "a", "query": "how", "label": "100"}],
            ),
            {"relaxed_accuracy": 50.0},
        ),
        (
            "gqa",
            ("p.json", [{"questionId": str(key), "prediction": "red"} for key in (1, 2, 3)]),
            ("r.json", GQA),
            {"accuracy": 50.0, "open": 100.0, "binary": 0.0},
        ),
        (
            "nlvr2",
            ("p.csv", "dev-0-0-0,True\ndev-0-1-0,true\ndev-1-0-0,true\n"),
            ("r.jsonl", NLVR),
            {"accuracy": 2 / 3, "consistency": 1 / 2},
        ),
        (
            "snli_ve",
            ("p.jsonl", [{"pairID": "a", "prediction": "neutral"}, {"pairID": "b", "prediction": "neutral"}]),
            ("r.jsonl", [{"pairID": "a", "gold_label": "neutral"}, {"pairID": "b", "gold_label": "entailment"}]),
            {"accuracy": 0.5},
        ),
        (
            "pope",
            ("p.jsonl", [{"question": "?", "answer": text} for text in ("Yes.", "No", "yes", "There is not")]),
            ("r.jsonl", [{"question_id": n, "label": label} for n, label in enumerate(("yes", "yes", "no", "no"))]),
            {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5},
        ),
        (
            "pope",
            ("p.jsonl", [{"question_id": 1, "answer": "no"}, {"question_id": 0, "answer": "yes"}]),
            ("r.jsonl", [{"question_id": 0, "label": "yes"}, {"question_id": 1, "label": "no"}]),
            {"accuracy": 1, "precision": 1, "recall": 1, "f1": 1, "yes_ratio": 0.5},
        ),
        (
            "retrieval",
            ("p.npy", np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.3]])),
            ("r.json", [0, 1, 0]),
            {
                "image_to_text_R@1": 50,
                "image_to_text_R@5": 100,
                "image_to_text_R@10": 100,
                "text_to_image_R@1": 200 / 3,
                "text_to_image_R@5": 100,
                "text_to_image_R@10": 100,
            },
        ),
        ("imagenet", ("p.npy", np.eye(7)[[0, 3]]), ("r.txt", "0\n4\n"), {"top_1": 50, "top_5": 50}),
        (
            "hateful_memes",
            ("p.csv", "id,proba,label\n42,0.9,1\n7,0.6,1\n8,0.7,0\n"),
            ("r.jsonl", MEMES),
            {"roc_auc": 1, "accuracy": 1 / 3},
        ),
        (
            "hateful_memes",
            ("p.jsonl", [{"id": 42, "proba": 0.9}, {"id": 7, "proba": 0.6}, {"id": 8, "proba": 0.3, "label": 0}]),
            ("r.jsonl", MEMES),
            {"roc_auc": 0.5, "accuracy": 1 / 3},
        ),
    ],
)
def test_files_in_the_official_layouts(task, predictions, references, expected, write, score):
    found = score(task, write(*predictions), write(*references))
    assert found["scores"] == pytest.approx(expected)
    assert found["task"] == task and found["reasons"] == {}


def test_mme_adds_accuracy_of_questions_and_of_pictures(write, score, refused, tmp_path):
    lines = [("a", "yes", "Yes, it is"), ("a", "no", "no"), ("b", "yes", "No"), ("b", "no", "I think no")]
    write("mme/existence.txt", "".join(f"{name}\t?\t{label}\t{answer}\n" for name, label, answer in lines))
    write("mme/code_reasoning.txt", "c\t?\tYes\tyes\nc\t?\tNo\tno\n")
    found = score("mme", tmp_path / "mme")
    # The last answer has no "no" among its first four letters.
    assert found["scores"] == {"existence": 50 + 50, "perception": 100, "code_reasoning": 200, "cognition": 200}
    assert found["count"] == 6
    write("mme/count.txt", "a\t?\tyes\tyes\n")
    assert "must have two lines for each picture" in refused(
        "score", "--task", "mme", "--predictions", tmp_path / "mme"
    )


def test_scores_that_nothing_divides_are_null_with_a_reason(write, score):
    found = score("pope", write("p.jsonl", [{"answer": "no"}] * 2), write("r.jsonl", [{"label": "no"}] * 2))
    assert found["scores"]["precision"] is None and "no yes" in found["reasons"]["precision"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*CAPTIONS, {"image_id": "9", "caption": "x"}], "p.json: 1 id occurs more than once: 9"),
        (CAPTIONS[:1], "1 of 2 references have no prediction: 4 (--subset scores only what is predicted)"),
        ([*CAPTIONS, {"image_id": 5, "caption": "x"}], "1 of 3 predictions have no reference: 5"),
        (
            [{"image_id": n, "caption": "x"} for n in range(10, 17)],
            "7 of 7 predictions have no reference: 10, 11, 12, 13, 14 and 2 more; 2 of 2 references have no prediction",
        ),
        ([{"image_id": 4, "caption": 3}], 'p.json: caption must be text, not 3: {"image_id": 4, "caption": 3}'),
        ([{"image": 4}], 'p.json: a record has no image_id: {"image": 4}'),
        ({"4": "x"}, "p.json must be a list of records, not an object"),
        (["x"], "p.json: record 1 must be an object with names, not a text"),
        ([], "p.json has no records"),
        ('[{"image_id": 4,]', "p.json is not JSON: line 1, column 17"),
    ],
)
def test_predictions_that_do_not_fit_are_named(rows, message, write, refused):
    told = refused(
        "score",
        "--task",
        "coco_caption",
        "--predictions",
        write("p.json", rows),
        "--references",
        write("r.json", WANTED),
    )
    assert message in told


@pytest.mark.parametrize(
    ("task", "name", "value", "message"),
    [
        ("coco_caption", "r.json", {"4": [], "9": ["x"]}, "1 of 2 images have no caption, 4 for one"),
        ("coco_caption", "r.json", {"4": "x"}, "image 4 must have a list of captions"),
        ("coco_caption", "r.json", [], "must be an object: COCO's annotations"),
        ("vqav2", "r.json", {"questions": []}, 'must have records in a list "annotations"'),
        ("docvqa", "r.json", {"data": [{"questionId": 1, "answers": [1]}]}, "answers must be a list of texts"),
        ("gqa", "r.json", [], "must be GQA's questions"),
        ("coco_caption", "r.txt", "x", "is not JSON"),
    ],
)
def test_references_that_do_not_fit_are_named(task, name, value, message, write, refused):
    files = ("--predictions", write("p.json", CAPTIONS), "--references", write(name, value))
    assert message in refused("score", "--task", task, *files)


@pytest.mark.usefixtures("_no_java")
def test_a_subset_is_scored_when_asked_for(write, score):
    found = score("coco_caption", write("p.json", CAPTIONS[:1]), write("r.json", WANTED), "--subset")
    assert found["count"] == 1


def test_arrays_are_checked_and_never_unpickled(write, refused):
    labels = ("--references", write("r.json", [0, 1]))
    pickled = write("p.npy", np.array([{}], dtype=object))
    assert "is not an array of numbers" in refused("score", "--task", "imagenet", "--predictions", pickled, *labels)
    flat = write("p.npy", np.zeros(3))
    assert "must hold numbers along 2 axes" in refused("score", "--task", "retrieval", "--predictions", flat, *labels)
    broken = write("p.npy", np.array([[np.nan, 1], [0, 1]]))
    assert "1 of 4 scores are not finite" in refused("score", "--task", "imagenet", "--predictions", broken, *labels)
    halves = ("--references", write("r.json", [0.5, 1]))
    assert "whole numbers" in refused(
        "score", "--task", "imagenet", "--predictions", write("p.npy", np.eye(2)), *halves
    )


def test_mistakes_in_the_options(write, refused, tmp_path):
    predictions = write("p.json", CAPTIONS)
    assert refused("score") == "give --task T and --predictions F, or --list"
    assert "did you mean coco_caption?" in refused("score", "--task", "coco_captions", "--predictions", predictions)
    assert refused("score", "--task", "vqav2", "--predictions", predictions) == "give the references: --references FILE"
    assert "pope takes no --questions" in refused(
        "score", "--task", "pope", "--predictions", predictions, "--questions", "q"
    )
    nowhere = ("--predictions", tmp_path / "no.json", "--references", predictions)
    assert "there is no file" in refused("score", "--task", "coco_caption", *nowhere)


def test_the_list_has_every_task(mmjax):
    code, out, err = mmjax("score", "--list")
    assert (code, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines() if not line.startswith(" ")] == list(SCORING_TASKS)
    table = json.loads(mmjax("score", "--list", "--json")[1])
    assert table["vqav2"]["scale"] == "percent"
