"""Flamingo-9B, as in the paper; meant for v5p-256.

mmjax inspect --config configs/flamingo_9b.py
mmjax train --config configs/flamingo_9b.py --workdir DIR

With `:video` after the file's name its videos are read too (`configs.common.flamingo_paper`).
"""

from configs.common import flamingo_paper

CHIPS = {"v5p-256": {"mesh": {"data": 4, "fsdp": 64, "strategy": "full"}}}


def get_config(arg=""):
    return flamingo_paper("flamingo-9b", arg, CHIPS)
