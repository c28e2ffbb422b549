"""The snippets of docs/data.md are configs, and every kind has one."""

import ast
import pathlib
import re

import pytest

from mmjax.core.config import build
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.sources.kinds import FILES

PAGE = (pathlib.Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
STATEMENTS = [node for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) for node in ast.parse(block).body]
ENTRIES = [ast.literal_eval(node.value) for node in STATEMENTS if isinstance(node, ast.Expr)]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["kind"])
def test_snippets_name_settings_that_there_are(entry):
    build(SourceEntry, entry).settings("snippet")


def test_every_kind_has_a_snippet():
    assert {entry["kind"] for entry in ENTRIES} == set(FILES)


def test_the_first_one_is_a_whole_mixture():
    (whole,) = [ast.literal_eval(node.value) for node in STATEMENTS if isinstance(node, ast.Assign)]
    assert set(build(DataConfig, whole).resolved().sources) == {"pairs", "pages"}


def test_every_kind_of_bad_record_is_explained():
    named = set(re.findall(r"^\| ((?:`[a-z_]+` ?)+)\|", PAGE[PAGE.index("## Bad records") :], re.MULTILINE))
    named = {word.strip("`") for words in named for word in words.split()}
    source = pathlib.Path(__file__).parents[3] / "mmjax" / "data"
    raised = {kind for path in source.rglob("*.py") for kind in re.findall(r'kind="([a-z_]+)"', path.read_text())}
    assert raised - named == {"stable"}  # of a sort
