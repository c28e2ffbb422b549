"""Which option an answer means, by hand-worked examples of the rules of MMMU and MMBench; VL-ICL's answers."""

import pytest

from mmjax.core.errors import InputError
from mmjax.evaluation.metrics import choice_tasks, choices
from mmjax.evaluation.metrics.layout import Inputs

OPTIONS = {"A": "cat", "B": "red bus", "C": "1,200"}


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("'C'", "C"),
        ("(A) or rather (B)", "B"),  # the last of those in brackets
        ("(A), since B is wrong", "A"),  # brackets before bare letters
        ("B and then A", "A"),
        ("I would say that it shows the red bus", "B"),  # words count in more than five words
        ("it was a cat on top of the Red Bus", "B"),
        ("A cat sat on the red bus there", "A"),  # a bare letter before words
    ],
)
def test_the_letter_that_mmmu_reads(response, letter):
    assert choices.mmmu_choice(response, OPTIONS, id="q") == letter


def test_where_mmmu_guesses_the_guess_is_the_questions_own():
    guesses = [choices.mmmu_choice("red bus", OPTIONS, id=f"q{number}") for number in range(60)]
    assert guesses == [choices.mmmu_choice("no idea", OPTIONS, id=f"q{number}") for number in range(60)]
    assert set(guesses) == set(OPTIONS)


@pytest.mark.parametrize(
    ("response", "right", "match"),
    [
        ("7", ["7"], True),
        ("The answer is 7.", ["7"], True),
        ("The answer is 7.004", ["7"], True),  # two decimals
        ("The answer is 17", ["7"], False),
        ("It costs $1,200 a year", ["1200"], True),
        ("x = 2.5e3", ["2500"], True),
        ("a square", ["square"], True),
        ("so it is a Square shape", ["a square"], True),
        ("triangle", ["square", "angle"], True),  # a right answer within another word
        ("x", ["x"], True),
        ("axe", ["x"], False),  # a single letter matches beside a space only
        ("the value of x here", ["x"], True),
        ("circle", ["square"], False),
    ],
)
def test_open_answers_that_mmmu_takes_for_right(response, right, match):
    assert choices.mmmu_open_match(choices.mmmu_open(response), right) is match


def test_what_mmmu_takes_an_open_answer_to_say():
    # The first line holds none of the words that an answer follows; of the second the part after "is" is the shortest.
    assert choices.mmmu_open("First 3 apples\nso the total is 5") == {5.0}
    assert choices.mmmu_open("12 dogs") == {"12 dogs", 12.0}


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("The answer is C.", "C"),
        ("B. red bus", "B"),
        ("A or B", ""),
        ("B is what I would choose here", ""),  # not among the last four words
        ("a red bus", "B"),
        ("cat and red bus", ""),
        ("this is a very long answer about many things, and in it there is a red bus", ""),
        ("none", ""),
    ],
)
def test_the_letter_that_mmbench_reads(response, letter):
    assert choices.mmbench_choice(response, OPTIONS) == letter


def test_rotations_move_the_options_and_the_answer():
    row = {"index": "7", "question": "?", "A": "cat", "B": "bus", "C": "dog", "D": "", "answer": "B"}
    rows = choices.circular_rows([row])
    assert [one["index"] for one in rows] == [7, 1_000_007, 2_000_007]
    assert [[one["A"], one["B"], one["C"]] for one in rows] == [
        ["cat", "bus", "dog"],
        ["bus", "dog", "cat"],
        ["dog", "cat", "bus"],
    ]
    assert [one["answer"] for one in rows] == ["B", "A", "C"]
    assert all(one[one["answer"]] == "bus" for one in rows)


def test_rotations_that_are_there_are_kept():
    rows = [
        {"index": "1", "question": "?", "A": "cat", "B": "bus", "answer": "B"},
        {"index": "2", "question": "?", "A": "x", "B": "y", "answer": "A"},
        {"index": "1000001", "question": "?", "A": "bus", "B": "cat", "answer": "A"},
    ]
    assert [int(one["index"]) for one in choices.circular_rows(rows)] == [1, 1_000_001, 2, 1_000_002]


def test_mmbench_of_files(tmp_path):
    table = "index\tquestion\tA\tB\tanswer\tcategory\n1\t?\tcat\tbus\tB\tthings\n2\t?\tx1\ty1\tA\tletters\n"
    (tmp_path / "mmbench_dev_made.tsv").write_text(table)
    given = '[{"index": 1, "prediction": "B"}, {"index": 1000001, "prediction": "A"}, {"index": 2, "prediction": "A"}'
    (tmp_path / "whole.json").write_text(given + ', {"index": 1000002, "prediction": "A"}]')
    found = choice_tasks.score_mmbench(Inputs(tmp_path / "whole.json", tmp_path / "mmbench_dev_made.tsv"))
    assert found.scores == {
        "accuracy": 50,
        "vanilla_accuracy": 100,
        "accuracy_things": 100,
        "accuracy_letters": 0,
    }
    assert found.count == 2
    (tmp_path / "part.json").write_text(given + "]")
    with pytest.raises(InputError, match=r"1 of 4 references have no prediction: 1000002"):
        choice_tasks.score_mmbench(Inputs(tmp_path / "part.json", tmp_path / "mmbench_dev_made.tsv"))
    part = choice_tasks.score_mmbench(Inputs(tmp_path / "part.json", tmp_path / "mmbench_dev_made.tsv", subset=True))
    assert part.scores["accuracy"] == 100 and part.count == 1


def test_mmbench_refuses_tables_without_labels(tmp_path):
    (tmp_path / "test.tsv").write_text("index\tquestion\tA\tB\n1\t?\tcat\tbus\n")
    with pytest.raises(InputError, match="no column answer"):
        choice_tasks.read_mmbench(tmp_path / "test.tsv")


def test_mmmu_of_files(tmp_path):
    (tmp_path / "right.json").write_text(
        '{"validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "B"},'
        ' "validation_Art_2": {"question_type": "multiple-choice", "ground_truth": "A"},'
        ' "validation_Computer_Science_1": {"question_type": "short-answer", "ground_truth": ["four", "4"]}}'
    )
    (tmp_path / "given.json").write_text(
        '{"validation_Art_1": "B", "validation_Art_2": "C", "validation_Computer_Science_1": "it is 4.00"}'
    )
    found = choice_tasks.score_mmmu(Inputs(tmp_path / "given.json", tmp_path / "right.json"))
    assert found.scores == pytest.approx(
        {
            "accuracy": 200 / 3,
            "Art_and_Design": 50,
            "Tech_and_Engineering": 100,
            "Art": 50,
            "Computer_Science": 100,
        }
    )


@pytest.mark.parametrize(
    ("right", "answer", "truth", "expected"),
    [
        (choice_tasks.binding_right, " Dax\nThis is", "dax", True),
        (choice_tasks.binding_right, "dax. It is", "dax", True),
        (choice_tasks.binding_right, "a dax", "dax", False),
        (choice_tasks.operator_right, "the result is 12 or 13", "12", True),
        (choice_tasks.operator_right, "twelve", "12", False),
        (choice_tasks.matching_right, "Yes, they are", "yes", True),
        (choice_tasks.matching_right, "they differ", "no", True),
        (choice_tasks.matching_right, "no", "yes", False),
    ],
)
def test_answers_of_vl_icl(right, answer, truth, expected):
    assert right(answer, truth) is expected
