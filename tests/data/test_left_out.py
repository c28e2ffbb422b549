"""Records that no row holds are told by number and kind; those that are filtered are not."""

import numpy as np

from mmjax.core.errors import DataError
from mmjax.data.left_out import left_out_records
from mmjax.data.lengths import KINDS
from mmjax.data.source import Lengths


class Broken:
    """Each record raises the error of its kind, but for the number 4, which was mended."""

    name = "broken"

    def __init__(self, kinds):
        self._kinds = kinds

    def load(self, index, epoch):
        if index != 4:
            raise DataError(f"number {index}", kind=self._kinds[index])


def test_each_kind():
    kinds = {0: "bad_json", 3: "filtered", 4: "missing", 6: "unheard_of"}
    codes = [-1 - (KINDS.index(kind) if kind in KINDS else 0) for kind in kinds.values()]
    lengths = Lengths(np.full(8, 10, np.int32), np.ones(8, np.int32))
    lengths.tokens[list(kinds)] = codes
    lengths.tokens[1], lengths.images[2], lengths.images[3] = 21, 5, 5
    assert [(index, error.kind) for index, error in left_out_records(Broken(kinds), lengths)] == [
        (0, "bad_json"),
        (6, "unheard_of"),
    ]
    found = dict(left_out_records(Broken(kinds), lengths, length=20, images=4))
    assert [(index, error.kind) for index, error in found.items()] == [
        (0, "bad_json"),
        (1, "too_long"),
        (2, "too_long"),
        (6, "unheard_of"),
    ]
    assert str(found[1]) == "record 1 of broken has 21 tokens and 1 images, a row holds 20 and 4"
