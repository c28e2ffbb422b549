"""Flamingo-9B, as in the paper.

mmjax inspect --config configs/flamingo_9b.py
mmjax train --config configs/flamingo_9b.py --workdir DIR
"""

from configs.common import flamingo_paper, variant


def get_config(arg=""):
    config = flamingo_paper("flamingo-9b")
    config.mesh = {"data": 1, "fsdp": -1}
    return variant(config, arg)
