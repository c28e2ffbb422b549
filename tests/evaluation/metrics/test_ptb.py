"""The tokenizer against what the Java program made of the same lines, and against the program itself where it is."""

import importlib.util
import pathlib
import random
import shutil
import subprocess

import pytest

from mmjax.evaluation.metrics import ptb
from tests.evaluation.metrics.random_captions import caption_sets

# A caption, below it the tokens that Stanford CoreNLP 3.4.1 gave, and so on, from a run over all captions at once.
# They still have the punctuation that COCO's scorer takes away.
SEEN = (pathlib.Path(__file__).parent / "ptb_seen.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
CAPTIONS, TOKENS = SEEN[::2], SEEN[1::2]
MARKS = ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]


def scored(lines):
    """What COCO's scorer leaves of the program's lines."""
    return [" ".join(token for token in line.rstrip().split(" ") if token not in MARKS) for line in lines]


def test_the_tokens_are_those_of_the_java_program():
    assert dict(zip(CAPTIONS, ptb.tokenize(CAPTIONS), strict=True)) == dict(zip(CAPTIONS, scored(TOKENS), strict=True))


def test_punctuation_is_taken_away_and_brackets_are_not():
    assert ptb.tokenize(['A "red" bus (left); two dogs...']) == ["a red bus -lrb- left -rrb- two dogs"]


def test_a_caption_is_one_line_whatever_it_holds():
    captions = ["two\nlines", "a\r\nb", "c\u2028d", "", "   ", "e <b\nf='", "g'>"]
    assert ptb.tokenize(captions)[:5] == ["two lines", "a b", "c d", "", ""]
    assert len(ptb.tokenize(captions)) == len(captions)
    assert ptb.tokenize([]) == []


def test_what_follows_decides_whether_a_full_stop_is_part_of_an_initial():
    assert ptb.tokenize(["a plan B.", "The dog"]) == ["a plan b", "the dog"]
    assert ptb.tokenize(["a plan B.", "Dogs here"]) == ["a plan b.", "dogs here"]
    assert ptb.tokenize(["fig. 3", "no. 5, no. They"]) == ["fig. 3", "no. 5 no they"]


def test_characters_beyond_the_basic_plane_are_dropped():
    assert ptb.tokenize(["smile 😀 cat😀dog"]) == ["smile cat dog"]


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Runs the Java program over a text."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or shutil.which("java") is None:
        pytest.skip("needs Java and pycocoevalcap")
    jar = pathlib.Path(next(iter(package.submodule_search_locations))) / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    path = tmp_path_factory.mktemp("ptb") / "captions.txt"

    def run(text):
        path.write_text(text, encoding="utf-8")
        name = "edu.stanford.nlp.process.PTBTokenizer"
        command = ["java", "-cp", str(jar), name, "-preserveLines", "-lowerCase", str(path)]
        return subprocess.run(command, check=True, capture_output=True).stdout.decode()

    return run


def test_captions_at_random_are_tokenized_as_by_the_java_program(official):
    candidates, references = caption_sets(100, seed=1)
    captions = [*CAPTIONS, *candidates, *(text for texts in references for text in texts)]
    assert ptb.tokenize(captions) == scored(official("\n".join(captions)).split("\n"))


def test_few_strings_at_random_are_tokenized_otherwise_than_by_the_java_program(official):
    generator = random.Random(0)
    printable = [chr(code) for code in range(32, 127)]
    lines = ["".join(generator.choices(printable, k=generator.randint(1, 40))) for _ in range(2000)]
    pairs = zip(ptb.tokenize(lines), scored(official("\n".join(lines)).split("\n")), strict=True)
    assert sum(ours != theirs for ours, theirs in pairs) <= 10


@pytest.mark.slow
def test_a_thousand_caption_sets_are_tokenized_as_by_the_java_program(official):
    candidates, references = caption_sets(1000, seed=2)
    for captions in (candidates, [text for texts in references for text in texts]):
        assert ptb.tokenize(captions) == scored(official("\n".join(captions)).split("\n"))
