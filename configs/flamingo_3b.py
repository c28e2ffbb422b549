"""Flamingo-3B, as in the paper; meant for v5e-256 or v6e-64.

mmjax inspect --config configs/flamingo_3b.py
mmjax train --config configs/flamingo_3b.py --workdir DIR

With `:video` after the file's name its videos are read too (`configs.common.flamingo_paper`).
"""

from configs.common import flamingo_paper

CHIPS = {
    "v5e-256": {"mesh": {"data": 16, "fsdp": 16, "strategy": "full"}},
    "v6e-64": {"mesh": {"data": 8, "fsdp": 8, "strategy": "full"}},
}


def get_config(arg=""):
    return flamingo_paper("flamingo-3b", arg, CHIPS)
