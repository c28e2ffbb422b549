"""`mmjax data show` draws every kind of data."""

import pytest

from mmjax.data.sources.kinds import FILES
from tests.data.sources.made import WRITERS


@pytest.mark.parametrize("kind", FILES)
def test_data_show_draws_each_kind(kind, tmp_path, mmjax):
    options = WRITERS[kind](tmp_path)
    config = tmp_path / "config.py"
    config.write_text(
        "from configs.flamingo_digits import get_config as digits\n"
        "def get_config(arg=''):\n"
        "    config = digits('tiny')\n"
        f"    config.data.sources = {{'mine': {{'kind': {kind!r}, 'options': {options!r}}}}}\n"
        "    config.data.phases = ()\n"
        "    config.data.length = 64\n"
        "    return config\n"
    )
    page = tmp_path / "rows.html"
    assert mmjax("data", "show", f"--config={config}", f"--out={page}")[0] == 0
    text = page.read_text()
    assert "mine:0:" in text
    assert text.count("data:image/png;base64,") >= 4


def test_data_index_counts_what_there_is(tmp_path, mmjax):
    options = WRITERS["jsonl"](tmp_path)
    with open(options["paths"][0], "a") as file:
        file.write('{"image": "0.jpg", "text": ""}\n')
    config = tmp_path / "config.py"
    config.write_text(
        "from configs.flamingo_digits import get_config as digits\n"
        "def get_config(arg=''):\n"
        "    config = digits('tiny')\n"
        f"    config.data.sources = {{'mine': {{'kind': 'jsonl', 'options': {options!r}}}}}\n"
        "    config.data.update({'phases': (), 'length': 24, 'max_bad_share': 0.2})\n"
        "    return config\n"
    )
    for _ in range(2):  # measured, and found again
        code, out, err = mmjax("data", "index", f"--config={config}")
        assert (code, err) == (0, "")
        assert out == "mine: 7 examples, 3 rows, 83.3% of their tokens used; left out: 1 empty_text\n"
    assert '"rows": 3' in mmjax("data", "index", f"--config={config}", "--json")[1]
