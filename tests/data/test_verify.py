"""Kept indices and lengths that are wrong are noticed, named and made anew."""

import functools

import numpy as np
import pytest

from mmjax.data.lengths import Limits, measure
from mmjax.data.verify import verify_source
from mmjax.text.prompt import Layout
from mmjax.text.tokenizer import TokenizerConfig, make_tokenizer
from tests.data.sources.made import WRITERS, make, read

TOKENIZER = make_tokenizer(TokenizerConfig())


def verify(open_source):
    return verify_source(open_source, TOKENIZER, Layout(), Limits())


def lengths(source):
    return np.stack(measure(source, TOKENIZER).lengths)


@pytest.fixture(params=["webdataset", "jsonl", "parquet", "obelics", "array_record"])
def opened(request, tmp_path):
    return functools.partial(make, request.param, **WRITERS[request.param](tmp_path))


def kept(tmp_path, pattern):
    (path,) = [path for path in (tmp_path / ".mmjax").glob(pattern) if not path.name.startswith("counts")]
    return path


def test_what_is_whole_is_as_kept(opened):
    before = lengths(opened())
    found = verify(opened)
    assert (found.files, found.examples, found.wrong) == (1, 6, ())
    np.testing.assert_array_equal(lengths(opened()), before)


@pytest.mark.parametrize("how", ["other", "damaged", "missing"])
def test_an_index_that_is_wrong(how, opened, tmp_path):
    before, texts = lengths(opened()), [read(opened(), index) for index in range(6)]
    index = kept(tmp_path, "[!lcr]*.npy" if list((tmp_path / ".mmjax").glob("[!lcr]*.npy")) else "a.*.npy")
    if how == "missing":
        index.unlink()
    elif how == "damaged":
        index.write_bytes(index.read_bytes()[:40])
    else:
        np.save(index, np.load(index)[::-1] if len(np.load(index)) > 1 else np.load(index) - 1)
    found = verify(opened)
    (line,) = [line for line in found.wrong if "index" in line]
    assert "was wrong, damaged or missing" in line
    assert [read(opened(), index) for index in range(6)] == texts
    np.testing.assert_array_equal(lengths(opened()), before)
    assert verify(opened).wrong == ()


def test_lengths_that_are_wrong(opened, tmp_path):
    before = lengths(opened())
    path = kept(tmp_path, "lengths-*.npy")
    table = np.load(path)
    table[0, 2] += 1
    np.save(path, table)
    found = verify(opened)
    assert found.wrong == (f"the lengths in {path} were wrong: 1 of 6 examples",)
    np.testing.assert_array_equal(lengths(opened()), before)
    assert verify(opened).wrong == ()
