"""Flamingo-80B, as in the paper; meant for v4-1536, as the paper's, or v5p-1024.

mmjax inspect --config configs/flamingo_80b.py
mmjax train --config configs/flamingo_80b.py --workdir DIR

With `:video` after the file's name its videos are read too (`configs.common.flamingo_paper`).
"""

from configs.common import flamingo_paper

KEEP = {"model": {"config": {"decoder": {"remat": "dots_attention"}}}}
# Parameters over 64 or 128 chips, and copies of them: to gather them from all would take longer than the step.
CHIPS = {
    "v5p-1024": {"mesh": {"data": 16, "fsdp": 8, "tensor": 8}, **KEEP},
    # A batch that 192 groups of 8 chips can share.
    "v4-1536": {"mesh": {"data": 12, "fsdp": 16, "tensor": 8}, "batch_size": 2112, **KEEP},
}


def get_config(arg=""):
    return flamingo_paper("flamingo-80b", arg, CHIPS)
