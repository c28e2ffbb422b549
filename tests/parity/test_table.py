"""The published table of certificates names every family, and the sizes that tests of configs check."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmjax.interop.families import FAMILIES
from tests.interop.published_sizes import PUBLISHED as COUNTED
from tests.interop.test_settings import PUBLISHED as COMPARED

TABLE = Path(__file__).parents[2] / "docs" / "parity.md"


def rows():
    """The lines of the table as dicts, by family."""
    lines = [line.strip("| ").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    columns, _, *cells = lines
    return {line[0]: dict(zip(columns, line, strict=True)) for line in cells}


def test_every_family_has_a_row():
    assert list(rows()) == list(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sizes_are_those_that_are_checked(family):
    checked = [name for name, config in COMPARED.items() if config["model_type"] == family]
    checked += [name for name, published in COUNTED.items() if published.config["model_type"] == family]
    assert set(rows()[family]["full sizes"].split(", ")) == (set(checked) or {"-"})
