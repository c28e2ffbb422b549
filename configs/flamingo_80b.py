"""Flamingo-80B, as in the paper.

mmjax inspect --config configs/flamingo_80b.py
mmjax train --config configs/flamingo_80b.py --workdir DIR
"""

from configs.common import flamingo_paper, variant


def get_config(arg=""):
    config = flamingo_paper("flamingo-80b")
    config.mesh = {"data": -1, "fsdp": 16, "tensor": 16}
    return variant(config, arg)
