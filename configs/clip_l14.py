"""CLIP-L/14 at 224 pixels (Radford et al. 2021); meant for v5e-256 (the paper: 256 V100).

mmjax inspect --config configs/clip_l14.py
mmjax train --config configs/clip_l14.py --workdir DIR

32 epochs of 400 million pairs in batches of 32,768; AdamW at 4e-4 (beta2 0.98, eps 1e-6, decay 0.2 but for gains,
biases and the temperature), 2,000 steps of warm-up, half a cosine; the factor on the cosines starts at 1/0.07 and is
held at 100. The paper's pairs are private: here those of LAION-400M.
"""

from configs.common import UNDECAYED, new_run, variant, webdataset
from mmjax.models.sizes import TWO_TOWER

CHIPS = {"v5e-256": {"mesh": {"data": 16, "fsdp": 16}}}


def get_config(arg=""):
    config = new_run("two_tower", TWO_TOWER["clip-l/14"], steps=390_625, batch_size=32_768)
    config.objective = {"kind": "softmax_contrastive", "max_scale": 100.0}
    config.data = {
        "sources": {
            "laion_400m": webdataset(
                "data/laion-400m/{00000..41455}.tar", max_tokens=77, options={"end_of_chunk": False}
            ),
        },
        "length": 77,
        "images": 1,
        "image_size": 224,
        "pack": False,
        "no_loss_before_first_image": False,
        "layout": {"image_tokens": 0},
    }
    # Its vocabulary has neither padding nor a word for pictures, and none is written.
    ends = dict.fromkeys(("pad", "image", "end_of_chunk"), "<|endoftext|>")
    config.tokenizer = {"kind": "tokenizer_json", "path": "data/tokenizers/clip/tokenizer.json", "special": ends}
    config.optim = {
        "learning_rate": 4e-4,
        "schedule": {"kind": "cosine", "warmup_steps": 2000},
        "beta2": 0.98,
        "eps": 1e-6,
        "weight_decay": 0.2,
        "clip_norm": 0.0,
        "groups": [{"pattern": UNDECAYED, "weight_decay": 0.0}, {"pattern": r".*"}],
    }
    return variant(config, arg, CHIPS)
