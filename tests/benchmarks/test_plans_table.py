"""The table of plans has a line for every program of every config on its chips, all fit, and it tells of this code."""

import importlib.util
import re

import pytest

from benchmarks.plans_table import TABLE, meant, rows_of
from mmjax.cli.configs import load_config
from mmjax.planning.topology import parse_topology

LINE = re.compile(r"\| (\w+) \| (\S+) \((\S+)\) \| .*? \| (\w+) \| [\d,]+ \| .*? \| (\d+)% \|")


def test_every_config_is_planned_and_fits():
    found = {(*match.groups()[:2], match[4]): match for match in LINE.finditer(TABLE.read_text())}
    expected = set()
    for config, chips in meant():
        writes = load_config(f"{config}:{chips}", []).model.known_family().gives == "text"
        expected |= {(config, chips, program) for program in ("train", "prefill", "decode")[: 3 if writes else 1]}
    assert set(found) == expected
    for (_, chips, _), match in found.items():
        assert parse_topology(chips).name == match[3]
        assert int(match[5]) >= 5


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install mmjax[plan]"
)
@pytest.mark.parametrize(
    ("config", "program"),
    [("paligemma_3b", "decode"), ("flamingo_3b", "prefill"), ("llava_1_5_7b", "train"), ("siglip_so400m", "train")],
)
def test_the_table_is_of_this_code(config, program):
    chips = dict(meant())[config]
    [row] = rows_of(config, chips, None, (program,))
    lines = TABLE.read_text().splitlines()
    assert row.text in lines and row.further_text in lines
