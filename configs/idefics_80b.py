"""IDEFICS-80B (Laurencon et al. 2023), from CLIP-H/14 and LLaMA-65B; meant for v5p-1024 (the paper: 512 A100).

mmjax inspect --config configs/idefics_80b.py
mmjax train --config configs/idefics_80b.py --workdir DIR --config.init_from=CHECKPOINT

200,000 steps of 3.67 million tokens in rows of 1,024. Shares of tokens: OBELICS 73.85%, LAION 17.18%, Wikipedia 6.15%,
PMD 2.82%. The gated blocks, the resampler and the two added tokens are trained; z-loss 1e-3.
"""

from configs.common import CROSS_ATTENTION, frozen, new_run, source, variant, webdataset
from mmjax.models.sizes import FLAMINGO

CHIPS = {"v5p-1024": {"mesh": {"data": 16, "fsdp": 8, "tensor": 8}}}


def get_config(arg=""):
    config = new_run("flamingo", FLAMINGO["idefics-80b"], steps=200_000, batch_size=3584)
    config.data = {
        "sources": {
            "obelics": source(
                "obelics",
                "data/obelics/train-{00000..01335}-of-01336.parquet",
                weight=0.7385,
                max_tokens=1024,
                options={"images": "data/obelics/images", "names": "url_sha256", "max_images": 20},
            ),
            "laion": webdataset("data/laion-2b/{00000..23295}.tar", weight=0.1718, max_tokens=128),
            "wikipedia": source(
                "jsonl",
                "data/wikipedia/{00000..00041}.jsonl",
                weight=0.0615,
                max_tokens=1024,
                options={"image": ""},  # texts alone
            ),
            "pmd": webdataset("data/pmd/{00000..06999}.tar", weight=0.0282, max_tokens=128),
        },
        "length": 1024,
        "images": 20,
        "image_size": 224,
        "no_loss_before_first_image": False,
    }
    config.objective = {"kind": "language", "z_loss": 1e-3}
    config.tokenizer = {
        "kind": "sentencepiece",
        "path": "data/tokenizers/llama/tokenizer.model",
        "special": {"pad": "<unk>"},
    }
    config.optim = {
        "learning_rate": 5e-5,
        "schedule": {"kind": "constant", "warmup_steps": 2000},
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "groups": [
            frozen(r"vision/.*"),
            {"pattern": r"resampler/.*"},
            {"pattern": CROSS_ATTENTION},
            {"pattern": r"decoder/added_.*", "weight_decay": 0.0},
            frozen(r"decoder/.*"),
        ],
    }
    return variant(config, arg, CHIPS)
