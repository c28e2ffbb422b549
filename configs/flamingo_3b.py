"""Flamingo-3B, as in the paper.

mmjax inspect --config configs/flamingo_3b.py
mmjax train --config configs/flamingo_3b.py --workdir DIR
"""

from configs.common import flamingo_paper, variant


def get_config(arg=""):
    config = flamingo_paper("flamingo-3b")
    config.mesh = {"data": 1, "fsdp": -1}
    return variant(config, arg)
