"""LLaVA-1.5-7B (Liu et al. 2024), from CLIP-L/14 at 336 pixels and Vicuna-7B; meant for v5e-16 (the paper: 8 A100).

mmjax inspect --config configs/llava_1_5_7b.py
mmjax train --config configs/llava_1_5_7b.py:pretrain --workdir FIRST --config.init_from=CHECKPOINT
mmjax train --config configs/llava_1_5_7b.py --workdir DIR --config.init_from=FIRST

The first stage (`:pretrain`) trains the projector alone on 558k captions at 1e-3; the second, all but the vision
encoder, on 665k conversations at 2e-5. Conversations are packed into rows of 2,048 tokens, of which a picture takes
576: a row of up to three stands for about two of the paper's, whose batches are of 256 and 128.
"""

from configs.common import frozen, new_run, source, variant
from mmjax.models.sizes import INLINE

IMAGES = {"images": "data/llava/images", "fit": "pad"}

CHIPS = {"v5e-16": {"mesh": {"data": 4, "fsdp": 4, "strategy": "full"}}}


def get_config(arg=""):
    first = arg == "pretrain"
    model = INLINE["llava-1.5-7b"]
    config = new_run("inline", model, steps=2180 if first else 5200, batch_size=128 if first else 64)
    captions = source("llava", "data/llava/blip_laion_cc_sbu_558k.json", options={**IMAGES, "template": "plain"})
    conversations = source("llava", "data/llava/llava_v1_5_mix665k.json", max_tokens=2048, options=IMAGES)
    config.data = {
        "sources": {"captions": captions} if first else {"conversations": conversations},
        "length": 2048,
        "images": 3,
        "image_size": 336,
        "no_loss_before_first_image": False,
        "layout": {"image_tokens": model.image_tokens},
    }
    config.tokenizer = {
        "kind": "tokenizer_json",
        "path": "data/tokenizers/llava-1.5-7b/tokenizer.json",
        "special": {"end_of_chunk": "</s>"},
    }
    config.optim = {
        "learning_rate": 1e-3 if first else 2e-5,
        "schedule": {"kind": "cosine", "warmup_steps": 65 if first else 156},
        "clip_norm": 1.0,
        "groups": [
            frozen(r"vision/.*"),
            {"pattern": r"connector/.*"},
            {"pattern": r"decoder/.*", "frozen": first},
        ],
    }
    return variant(config, "" if first else arg, CHIPS)
