"""OpenFlamingo-9B (Awadalla et al. 2023), from CLIP-L/14 and MPT-7B; meant for v5e-64 (the paper: 64 A100).

mmjax inspect --config configs/openflamingo_9b.py
mmjax train --config configs/openflamingo_9b.py --workdir DIR --config.init_from=CHECKPOINT

Pages of Multimodal C4, its archives unpacked (at most 256 tokens and 6 images, similarity at least 0.24, half of the
pages of one image left out) and pairs of LAION-2B (32 tokens), two pairs for each page, their losses as 1 to 0.2. A row
holds six pairs, so that every fourth row is one of pairs. The gated blocks, the resampler and the table of tokens are
trained, at 1e-4.
"""

from configs.common import CROSS_ATTENTION, frozen, new_run, source, variant, webdataset
from mmjax.models.sizes import FLAMINGO

CHIPS = {"v5e-64": {"mesh": {"data": 8, "fsdp": 8, "strategy": "full"}}}


def get_config(arg=""):
    config = new_run("flamingo", FLAMINGO["openflamingo-9b"], steps=120_000, batch_size=768)
    config.data = {
        "sources": {
            "mmc4": source(
                "mmc4",
                "data/mmc4/docs_shard_{0..23098}_v2.jsonl",
                weight=3.0,
                max_tokens=256,
                keep_single_image=0.5,
                options={"images": "data/mmc4/images", "min_similarity": 0.24, "max_images": 6},
            ),
            "laion_2b": webdataset("data/laion-2b/{00000..23295}.tar", weight=1.0, loss_weight=0.2, max_tokens=32),
        },
        "length": 256,
        "images": 6,
        "image_size": 224,
    }
    config.tokenizer = {
        "kind": "tokenizer_json",
        "path": "data/tokenizers/mpt-7b/tokenizer.json",
        "special": {"pad": "<|padding|>"},
    }
    config.optim = {
        "learning_rate": 1e-4,
        "schedule": {"kind": "constant", "warmup_steps": 1875},
        "weight_decay": 0.1,
        "groups": [
            frozen(r"vision/.*"),
            {"pattern": r"resampler/.*", "weight_decay": 0.0},
            {"pattern": CROSS_ATTENTION},
            {"pattern": r"decoder/embedding", "weight_decay": 0.0},
            frozen(r"decoder/.*"),
        ],
    }
    return variant(config, arg, CHIPS)
