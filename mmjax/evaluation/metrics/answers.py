"""Scores of short answers: VQA accuracy, exact match, token F1, ANLS and relaxed accuracy. All from 0 to 1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from mmjax.core.errors import InputError

# As the official table has them, with its slip: "somebody'd" loses its apostrophe.
_TABLE = """
aint:ain't arent:aren't cant:can't couldve:could've couldnt:couldn't couldn'tve:couldn't've couldnt've:couldn't've
didnt:didn't doesnt:doesn't dont:don't hadnt:hadn't hadnt've:hadn't've hadn'tve:hadn't've hasnt:hasn't havent:haven't
hed:he'd hed've:he'd've he'dve:he'd've hes:he's howd:how'd howll:how'll hows:how's isnt:isn't itd:it'd itd've:it'd've
it'dve:it'd've itll:it'll maam:ma'am mightnt:mightn't mightnt've:mightn't've mightn'tve:mightn't've mightve:might've
mustnt:mustn't mustve:must've neednt:needn't notve:not've oclock:o'clock oughtnt:oughtn't ow's'at:'ow's'at
'ows'at:'ow's'at 'ow'sat:'ow's'at shant:shan't shed've:she'd've she'dve:she'd've shouldve:should've shouldnt:shouldn't
shouldnt've:shouldn't've shouldn'tve:shouldn't've somebody'd:somebodyd somebodyd've:somebody'd've
somebody'dve:somebody'd've somebodyll:somebody'll somebodys:somebody's someoned:someone'd someoned've:someone'd've
someone'dve:someone'd've someonell:someone'll someones:someone's somethingd:something'd
somethingd've:something'd've something'dve:something'd've somethingll:something'll thats:that's thered:there'd
thered've:there'd've there'dve:there'd've therere:there're theres:there's theyd:they'd theyd've:they'd've
they'dve:they'd've theyll:they'll theyre:they're theyve:they've twas:'twas wasnt:wasn't wed've:we'd've
we'dve:we'd've weve:we've werent:weren't whatll:what'll whatre:what're whats:what's whatve:what've whens:when's
whered:where'd wheres:where's whereve:where've whod:who'd whod've:who'd've who'dve:who'd've wholl:who'll whos:who's
whove:who've whyll:why'll whyre:why're whys:why's wont:won't wouldve:would've wouldnt:wouldn't
wouldnt've:wouldn't've wouldn'tve:wouldn't've yall:y'all yall'll:y'all'll y'allll:y'all'll yall'd've:y'all'd've
y'alld've:y'all'd've y'all'dve:y'all'd've youd:you'd youd've:you'd've you'dve:you'd've youll:you'll youre:you're
youve:you've
"""
_CONTRACTIONS = dict(entry.split(":") for entry in _TABLE.split())
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(value) for value, word in enumerate(_COUNTED)}
_ARTICLES = frozenset(["a", "an", "the"])
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# The official code hands a flag of `re` where the largest number of replacements belongs.
_MOST_FULL_STOPS = int(re.UNICODE)


@lru_cache(maxsize=100_000)
def normalize_answer(answer: str) -> str:
    """An answer as the VQA evaluation compares it: punctuation, then numbers, articles and contractions.

    After the official vqaEval.py (Antol et al. 2015; Goyal et al. 2017), with what is odd in it: a mark is taken away
    where it stands beside a space anywhere in the answer, and becomes a space otherwise; if the answer has a number
    with a comma ("1,000"), all marks are taken away; of full stops that no digit follows only the first 32 go.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    has_number = _NUMBER_WITH_COMMA.search(text) is not None
    bare = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_space or has_number else " ")
    bare = _FULL_STOP.sub("", bare, count=_MOST_FULL_STOPS)
    words = [_NUMBERS.get(word, word) for word in bare.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """The VQA accuracy of one answer: min(1, n/3) for n equal answers, averaged over the sets without one person.

    As the official code does, answers are compared as they stand where all people gave the very same one, and
    normalized by `normalize_answer` otherwise.
    """
    given = _one_line(answer)
    texts = [_one_line(text) for text in references]
    if len(set(texts)) > 1:
        given, texts = normalize_answer(given), [normalize_answer(text) for text in texts]
    return _leave_one_out(given, texts)


def vizwiz_accuracy(answer: str, references: Sequence[str]) -> float:
    """The VQA accuracy as VizWiz computes it: the answer is normalized, those of the people are taken as they stand."""
    return _leave_one_out(normalize_answer(answer), references)


def textvqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """The VQA accuracy as TextVQA computes it: all are normalized, after commas and question marks are taken away.

    After the evaluator that its authors published with M4C (Hu et al. 2020); "'s" becomes a word of its own.
    """

    def normalize(text):
        return normalize_answer(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())

    return _leave_one_out(normalize(answer), [normalize(text) for text in references])


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _leave_one_out(answer: str, references: Sequence[str]) -> float:
    if not references:
        raise InputError("VQA accuracy needs the answers of people, of which there are none")
    equal = [text == answer for text in references]
    shares = [min(1.0, (sum(equal) - one) / 3) for one in equal]
    return sum(shares) / len(shares)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals a reference, after SQuAD's normalization (Rajpurkar et al. 2016), else 0.

    It puts in lower case, takes away ASCII punctuation and then articles, and joins words by single spaces.
    """
    return float(any(_squad(answer) == _squad(text) for text in references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """The best F1 = 2PR / (P + R) of the words that the answer shares with a reference, after SQuAD's normalization."""
    return max(_f1(_squad(answer).split(), _squad(text).split()) for text in references)


def _squad(text: str) -> str:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _f1(given: list[str], wanted: list[str]) -> float:
    shared = (Counter(given) & Counter(wanted)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def anls(answer: str, references: Sequence[str], *, threshold: float = 0.5) -> float:
    """The Average Normalized Levenshtein Similarity of one answer (Biten et al. 2019): the best over the references.

    1 - distance / the longer length, and 0 where that is below `threshold`. As in DocVQA's evaluation, the distance is
    between the texts in lower case with single spaces, the lengths are those of the texts as given.
    """

    def similarity(reference):
        longest = max(len(reference), len(answer))
        return 1 - _edit_distance(_spaced(reference), _spaced(answer)) / longest if longest else 1.0

    best = max(map(similarity, references))
    return best if best >= threshold else 0.0


def _spaced(text: str) -> str:
    return " ".join(text.lower().split())


def _edit_distance(first: str, second: str) -> int:
    above = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        here = [row]
        for column, other in enumerate(second, 1):
            here.append(min(above[column] + 1, here[-1] + 1, above[column - 1] + (letter != other)))
        above = here
    return above[-1]


def relaxed_match(answer: str, reference: str, *, tolerance: float = 0.05) -> float:
    """ChartQA's relaxed accuracy of one answer (Masry et al. 2022): 1 if right, else 0.

    Two numbers, of which "5%" is 0.05, may differ by `tolerance` of the reference, itself included. Other answers, and
    all where the reference is 0, must be equal but for capitals.
    """
    given, wanted = _number(answer), _number(reference)
    if given is not None and wanted:
        return float(abs(given - wanted) / abs(wanted) <= tolerance)
    return float(answer.lower() == reference.lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
