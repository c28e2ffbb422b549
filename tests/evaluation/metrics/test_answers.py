"""Scores of answers by hand-worked examples, and VQA accuracy against the formula written anew."""

import random

import pytest

from mmjax.core.errors import InputError
from mmjax.evaluation.metrics import answers


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Dog", "dog"),
        ("a an the", ""),
        ("Two dogs.", "2 dogs"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("black-and-white", "black and white"),  # no space beside a hyphen: it becomes one
        ("black - white", "black white"),
        ("black -white t-shirt", "black white tshirt"),  # a space beside one hyphen: all of them go
        ("1,000", "1000"),
        ("1,000 red-white", "1000 redwhite"),  # a number with a comma: all marks go
        ("yes,no", "yes no"),
        ("3.14.", "3.14"),
        ("U.S.", "us"),
        ("7.5 a.m.", "7.5 am"),
        ("cant", "can't"),
        ("dont do it", "don't do it"),
        ("Im", "im"),  # the official table has "Im", after all is in lower case
        ("somebody'd", "somebodyd"),
        ("dog's", "dog's"),
        ("50%", "50%"),
        ("what?!", "what"),
        (" two\nlines\t", "2 lines"),
        ("." * 40 + "x", "." * 8 + "x"),
    ],
)
def test_answers_are_normalized_as_officially(answer, normal):
    assert answers.normalize_answer(answer) == normal


def test_vqa_accuracy_by_hand():
    ten = ["red"] * 3 + ["blue"] * 7
    # Without one of the three that say so, two thirds; without one of the others, all three.
    assert answers.vqa_accuracy("red", ten) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert answers.vqa_accuracy("Blue.", ten) == 1
    assert answers.vqa_accuracy("green", ten) == 0
    assert answers.vqa_accuracy("one", ["1"] + ["2"] * 9) == pytest.approx(9 * (1 / 3) / 10)


def test_answers_on_which_all_agree_are_compared_as_they_stand():
    assert answers.vqa_accuracy("Red", ["red"] * 10) == 0
    assert answers.vqa_accuracy(" red\n", ["red"] * 10) == 1
    assert answers.vqa_accuracy("Red", ["red"] * 9 + ["a red"]) == 1


def test_vizwiz_and_textvqa_differ_as_their_evaluations_do():
    people = ["Red"] * 10
    assert answers.vqa_accuracy("Red", people) == 1
    assert answers.vizwiz_accuracy("Red", people) == 0  # the answer becomes "red", theirs stay
    assert answers.textvqa_accuracy("red.", people) == 1
    assert answers.textvqa_accuracy("dog's", ["dog 's"] * 10) == 1
    assert answers.textvqa_accuracy("1,000", ["1000"] * 10) == 1


def leave_one_out(answer, people):
    """The formula, over all subsets of nine."""
    shares = []
    for left_out in range(len(people)):
        others = people[:left_out] + people[left_out + 1 :]
        shares.append(min(1, others.count(answer) / 3))
    return sum(shares) / len(shares)


def test_vqa_accuracy_is_the_formula():
    generator = random.Random(0)
    for _ in range(300):
        people = [generator.choice(["red", "blue", "2", "green"]) for _ in range(10)]
        answer = generator.choice(people)
        assert answers.vqa_accuracy(answer, people) == pytest.approx(leave_one_out(answer, people))
    with pytest.raises(InputError, match="needs the answers of people"):
        answers.vqa_accuracy("red", [])


def test_exact_match_and_token_f1_are_those_of_squad():
    assert answers.exact_match("The Eiffel Tower!", ["Big Ben", "eiffel  tower"]) == 1
    assert answers.exact_match("tower", ["eiffel tower"]) == 0
    assert answers.token_f1("the red bus", ["bus", "a big red bus stop"]) == pytest.approx(
        2 * 1 * (2 / 4) / (1 + 2 / 4)
    )
    assert answers.token_f1("cat", ["dog"]) == 0


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("Coca Cola", ["coca cola"], 1),
        ("coca cola", ["coca  cola"], 1),
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("abcd", ["abxy"], 0.5),  # at the threshold it counts
        ("abc", ["axy"], 0),
        ("", ["a"], 0),
        ("", [""], 1),
        ("one", ["two", "ones"], 1 - 1 / 4),
    ],
)
def test_anls(answer, references, score):
    assert answers.anls(answer, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("105", "100", 1),
        ("95", "100", 1),
        ("105.1", "100", 0),
        ("-105", "-100", 1),
        ("5%", "0.05", 1),
        ("5.3%", "5%", 0),
        ("0", "0", 1),
        ("0.0", "0", 0),  # nothing is near to 0: the texts must be equal
        ("Yes", "yes", 1),
        ("yes", "yes.", 0),
        ("1,000", "1000", 0),
    ],
)
def test_relaxed_match(answer, reference, right):
    assert answers.relaxed_match(answer, reference) == right
