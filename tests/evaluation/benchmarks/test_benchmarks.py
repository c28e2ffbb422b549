"""Every benchmark: official files -> items -> answers -> file of results -> official score."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest

from mmjax.core.errors import DataError, InputError
from mmjax.evaluation import towers
from mmjax.evaluation.benchmark import Answer
from mmjax.evaluation.benchmarks import classes
from mmjax.evaluation.benchmarks.table import BENCHMARKS
from mmjax.evaluation.metrics.answers import vqa_accuracy
from tests.evaluation.benchmarks import made

pytestmark = pytest.mark.usefixtures("no_java")
PERFECT = {
    "coco_caption": None,
    "flickr30k": None,
    "nocaps": None,
    "vqav2": None,
    "okvqa": None,
    "textvqa": None,
    "vizwiz": None,
    "docvqa": 1.0,
    "nlvr2": 1.0,
    "snli_ve": 1.0,
    "hateful_memes": 1.0,
    "pope_random": 1.0,
    "pope_popular": 1.0,
    "pope_adversarial": 1.0,
    "mme": 400.0,
}
NO_TRAINING = {
    *(name for name in BENCHMARKS if name.startswith("pope")),
    *("mme", "mmbench", "fast_vqa", "guided_vqa"),
    *(name for name in BENCHMARKS if "miniimagenet" in name),
    *("vl_icl_open_mi", "vl_icl_matching_mi", "vl_icl_operator_induction", "vl_icl_operator_induction_interleaved"),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder of a benchmark's files, made once."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        made.MAKERS[name](folder)
        return folder

    return make


def answers_to(benchmark, items, *, right):
    """The right answers, or answers that are nobody's."""
    if benchmark.method in ("classes", "retrieval"):
        names = (
            towers.caption_texts(items, benchmark.templates[0])
            if benchmark.method == "retrieval"
            else list(items[0].candidates)
        )
        scores = np.array([[float(name in item.answers) for name in names] for item in items])
        return towers.answers_of(items, scores if right else -scores, names)
    given = []
    for item in items:
        others = [name for name in item.candidates if name not in item.answers]
        text = item.answers[0] if right else others[0] if others else "nothing of the kind"
        if benchmark.name == "mmbench" and right:
            text = f" {text}."
        told = tuple(0.0 if name == text else -1.0 for name in item.candidates)
        given.append(Answer(item, text, benchmark.finish(text), told))
    return given


def score(benchmark, answers, folder, tmp_path):
    path = tmp_path / (benchmark.results or "results")
    benchmark.write_results(answers, path)
    return benchmark.score(path, folder)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_right_answers_score_all_and_wrong_ones_less(name, folder_of, tmp_path):
    benchmark, folder = BENCHMARKS[name], folder_of(name)
    items = benchmark.read(folder, "test")
    assert len({item.id for item in items}) == len(items) > 1
    best = score(benchmark, answers_to(benchmark, items, right=True), folder, tmp_path)
    worst = score(benchmark, answers_to(benchmark, items, right=False), folder, tmp_path)
    assert worst[benchmark.main_score] < best[benchmark.main_score]
    expected = PERFECT.get(name, 100.0)
    if expected is not None:
        assert best[benchmark.main_score] == pytest.approx(expected)
    assert benchmark.main_score in best


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if BENCHMARKS[name].score_one])
def test_the_main_score_is_the_mean_of_those_of_single_answers(name, folder_of, tmp_path):
    benchmark, folder = BENCHMARKS[name], folder_of(name)
    items = benchmark.read(folder, "test")
    right, wrong = (answers_to(benchmark, items, right=right) for right in (True, False))
    if benchmark.method == "retrieval":
        mixed = right
    else:
        mixed = [(right, wrong)[number % 3 == 1][number] for number in range(len(items))]
    told = score(benchmark, mixed, folder, tmp_path)[benchmark.main_score]
    assert told == pytest.approx(benchmark.scale * np.mean([benchmark.score_one(one) for one in mixed]), abs=0.006)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_pictures_are_decoded_whole_and_templates_name_what_items_have(name, folder_of):
    benchmark, folder = BENCHMARKS[name], folder_of(name)
    items = list(benchmark.read(folder, "test"))
    shown = [item for one in items for found in one.support for item in found]
    if name not in NO_TRAINING:
        shown += benchmark.read(folder, "train")
    for item in items[:3] + shown[:3]:
        assert item.media and item.answers and all(item.answers)
        for medium in item.media:
            (frame,) = medium.load()
            assert frame.shape == (20, 24, 3) and frame.dtype == np.uint8
        for template in benchmark.templates:
            assert template.question.replace("{image}", "").format(**item.fields) is not None
            assert "{answer}" in template.answer


@pytest.mark.parametrize("name", sorted(NO_TRAINING))
def test_what_has_no_training_data_says_so(name, folder_of):
    with pytest.raises(InputError, match="no training data"):
        BENCHMARKS[name].read(folder_of(name), "train")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_empty_folder_is_one_error_that_names_the_files(name, tmp_path):
    with pytest.raises(InputError, match=r"must hold") as told:
        BENCHMARKS[name].read(tmp_path, "test")
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_broken_file_is_one_error_that_names_it(name, folder_of, tmp_path):
    """Every text file in turn is cut in the middle, then made into something else."""
    folder = tmp_path / "broken"
    shutil.copytree(folder_of(name), folder)
    seen = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".json", ".jsonl", ".tsv", ".txt"):
            continue
        whole = path.read_bytes()
        for damage in (whole[: len(whole) // 2 - 3], b"[7]", b""):
            path.write_bytes(damage)
            try:
                BENCHMARKS[name].read(folder, "test")
            except InputError as error:
                assert path.name in str(error) or str(folder) in str(error)
                seen += 1
        path.write_bytes(whole)
    assert seen >= 2


@pytest.mark.parametrize("name", ["coco_caption", "vqav2", "mme", "mmmu"])
def test_a_picture_that_is_not_there_is_a_bad_record(name, folder_of, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(folder_of(name), folder)
    if name == "mme":
        items = BENCHMARKS[name].read(folder, "test")  # which picture belongs to a text is told by the files
    for path in folder.rglob("*.jpg"):
        path.unlink()
    if name != "mme":
        items = BENCHMARKS[name].read(folder, "test")
    lost = [item for item in items if item.media and ".parquet" not in str(item.media[0].frames[0].what)]
    with pytest.raises(DataError) as told:
        lost[0].media[0].load()
    assert told.value.kind == "missing"


def test_a_record_that_leads_out_of_the_folder_is_refused(tmp_path):
    made.put(tmp_path, "secret.png", made.picture(0, "PNG"))
    row = {"id": 1, "img": "../secret.png", "label": 0, "text": "a"}
    made.put(tmp_path, "memes/dev_seen.jsonl", made.lines([row, {**row, "id": 2, "label": 1}]))
    (item, _) = BENCHMARKS["hateful_memes"].read(tmp_path / "memes", "test")
    with pytest.raises(DataError) as told:
        item.media[0].load()
    assert told.value.kind == "hostile_path"


@pytest.mark.parametrize("name", ["vqav2", "okvqa"])
def test_vqa_scores_are_those_of_the_official_formula(name, folder_of, tmp_path):
    """The mean over the ten sets of nine of min(1, n/3), in percent, of a file that was written here."""
    benchmark, folder = BENCHMARKS[name], folder_of(name)
    items = benchmark.read(folder, "test")
    texts = ["yes", "Dark red, I think", "two\nQuestion: what", "a blue"]
    answers = [Answer(item, text, benchmark.finish(text)) for item, text in zip(items, texts, strict=True)]
    assert [one.answer for one in answers] == ["yes", "Dark red", "two", "a blue"]
    found = score(benchmark, answers, folder, tmp_path)

    def by_hand(text, people):
        others = [people[:place] + people[place + 1 :] for place in range(10)]
        return np.mean([min(1, nine.count(text) / 3) for nine in others])

    # "dark red" by six of ten; all ten said "2", so that answers are compared as they stand; "blue" by five.
    normal = [["yes"] * 9 + ["no"], ["red"] * 4 + ["dark red"] * 6, ["2"] * 10, ["blue"] * 5 + ["navy"] * 5]
    expected = [by_hand(text, people) for text, people in zip(["yes", "dark red", "two", "blue"], normal, strict=True)]
    assert expected[2] == 0
    assert found["accuracy"] == round(100 * np.mean(expected), 2)
    assert [vqa_accuracy(one.answer, one.item.answers) for one in answers] == pytest.approx(expected)


def test_results_are_in_the_official_layouts(folder_of, tmp_path):
    def written(name):
        benchmark = BENCHMARKS[name]
        items = benchmark.read(folder_of(name), "test")
        path = tmp_path / name
        benchmark.write_results(answers_to(benchmark, items, right=True), path)
        return path

    assert json.loads(written("vqav2").read_text())[0] == {"question_id": 100, "answer": "yes"}
    caption = json.loads(written("coco_caption").read_text())[1]
    assert caption == {"image_id": 1, "caption": made.captions_of(1)[0]}
    assert json.loads(written("flickr30k").read_text())[0]["image_id"] == "1000.jpg"
    assert json.loads(written("gqa").read_text())[0] == {"questionId": "200", "prediction": "red"}
    assert written("nlvr2").read_text().splitlines()[:2] == ["test1-0-0-0,True", "test1-0-1-0,False"]
    assert json.loads(written("snli_ve").read_text())[1] == {"pairID": "1.jpg#0r1n", "prediction": "neutral"}
    heading, first = written("hateful_memes").read_text().splitlines()[:2]
    assert heading == "id,proba,label" and first.startswith("100,0.2689414") and first.endswith(",0")
    assert (written("mme") / "existence.txt").read_text().splitlines()[1] == (
        "0.jpg\tIs there a dog? Please answer yes or no.\tNo\tno"
    )
    assert json.loads(written("mmmu").read_text())["validation_Art_1"] == "B"
    pope = json.loads(written("pope_random").read_text().splitlines()[0])
    assert pope == {"question_id": 1, "question": "Is there a wall in the image?", "answer": "yes"}


def test_a_part_of_the_questions_can_be_scored(folder_of, tmp_path):
    for name in ("coco_caption", "vqav2", "chartqa", "gqa", "mmbench", "mmmu", "mme"):
        benchmark, folder = BENCHMARKS[name], folder_of(name)
        items = benchmark.read(folder, "test")[: 3 if name in ("mmbench", "mme") else 1]
        (tmp_path / name).mkdir()
        found = score(benchmark, answers_to(benchmark, items, right=True), folder, tmp_path / name)
        assert found[benchmark.main_score] is not None


@pytest.mark.parametrize("kaggle", [True, False])
def test_the_flat_validation_set_gets_its_classes_from_either_ground_truth(kaggle, tmp_path):
    made.imagenet_flat(tmp_path, kaggle=kaggle)
    items = BENCHMARKS["imagenet_zero_shot"].read(tmp_path, "test")
    assert [item.record["class"] for item in items] == [2, 0, 1]
    assert items[0].answers == ("thing 2",)
    assert items[0].candidates == ("thing 0", "thing 1", "thing 2")


def test_classes_of_one_name_are_told_apart_and_own_names_come_first(folder_of, tmp_path):
    assert list(classes.class_names(folder_of("imagenet_few_shot")).values()) == ["tench", "crane", "crane (n03126707)"]
    shutil.copytree(folder_of("imagenet_few_shot"), tmp_path / "own")
    made.put(tmp_path / "own", "class_names.json", dict(zip(made.SYNSETS, ["a fish", "a bird", "a lift"], strict=True)))
    items = BENCHMARKS["imagenet_few_shot"].read(tmp_path / "own", "train")
    assert {item.label for item in items} == {"a fish", "a bird", "a lift"}


def test_support_comes_in_rounds_with_each_class_once(folder_of):
    item = BENCHMARKS["open_miniimagenet_2way"].read(folder_of("open_miniimagenet_2way"), "test")[1]
    assert item.answers == ("blicket",)
    assert [[one.answers for one in found] for found in item.support] == [[("dax.",), ("blicket.",)]] * 2
    assert item.support[0][0].fields == {"question": "This is a"}
    (query, _) = BENCHMARKS["fast_vqa"].read(folder_of("fast_vqa"), "test")
    assert query.support[0][1].fields == {"question": ""}
    assert query.support[0][1].answers == ("This is a blicket.",)
    vl_icl = BENCHMARKS["vl_icl_open_mi"].read(folder_of("vl_icl_open_mi"), "test")
    for query in vl_icl:
        assert len(query.support) == 3
        assert all({one.answers for one in found} > {query.answers} and len(found) == 2 for found in query.support)
    (query, _) = BENCHMARKS["vl_icl_operator_induction"].read(folder_of("vl_icl_operator_induction"), "test")
    assert [found[0].answers for found in query.support] == [("6",)] * 3
    again = BENCHMARKS["vl_icl_open_mi"].read(folder_of("vl_icl_open_mi"), "test")
    assert [[one.id for found in item.support for one in found] for item in again] == [
        [one.id for found in item.support for one in found] for item in vl_icl
    ]


def test_mmbench_is_asked_in_every_rotation(folder_of):
    items = BENCHMARKS["mmbench"].read(folder_of("mmbench"), "test")
    assert [item.id for item in items] == [
        *("0", "1000000"),
        *("1", "1000001", "2000001"),
        *("2", "1000002", "2000002", "3000002"),
    ]
    assert items[1].fields["options"] == "A. blue\nB. red" and items[1].answers == ("B",)
    assert items[1].fields["hint"] == "Look well.\n" and items[2].fields["hint"] == ""
    assert items[3].fields["options"] == "A. flat\nB. long\nC. round" and items[3].answers == ("B",)
    assert items[2].fields["question"] == "Which\nshape?"


def test_mmbench_counts_questions_that_are_right_in_every_rotation(folder_of, tmp_path):
    benchmark, folder = BENCHMARKS["mmbench"], folder_of("mmbench")
    items = benchmark.read(folder, "test")
    answers = answers_to(benchmark, items, right=True)
    answers[3] = dataclasses.replace(answers[3], answer="A")  # question 1 in its second rotation
    found = score(benchmark, answers, folder, tmp_path)
    assert found["accuracy"] == pytest.approx(100 * 2 / 3)
    assert found["vanilla_accuracy"] == 100
    assert found["accuracy_look"] == 50 and found["accuracy_think"] == 100


def test_mmmu_shows_all_pictures_and_parses_responses(folder_of, tmp_path):
    benchmark, folder = BENCHMARKS["mmmu"], folder_of("mmmu")
    items = {item.id: item for item in benchmark.read(folder, "test")}
    assert [len(item.media) for item in items.values()] == [1, 2, 1, 1]
    assert items["validation_Art_1"].fields["options"] == "(A) Miro\n(B) Klee\n(C) Ernst\n"
    assert items["validation_Math_2"].answers == ("a square", "4")
    texts = ["I think that it is (B).", "A", "There are 7.0 of them", "the answer is a square"]
    answers = [Answer(item, text, text) for item, text in zip(items.values(), texts, strict=True)]
    found = score(benchmark, answers, folder, tmp_path)
    assert found == {
        "accuracy": 100,
        "Art_and_Design": 100,
        "Science": 100,
        "Art": 100,
        "Math": 100,
    }
