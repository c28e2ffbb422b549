"""SigLIP-So400m/14 at 384 pixels (Zhai et al. 2023; Alabdulmohsin et al. 2023); meant for v5e-256.

mmjax inspect --config configs/siglip_so400m.py
mmjax train --config configs/siglip_so400m.py --workdir DIR

Five billion pairs in batches of 32,768, texts of 64 tokens that are read with their padding; temperature from 10, bias
from -10; AdamW at 1e-3 (beta2 0.95, decay 1e-4) on half a cosine. The paper's pairs (WebLI) are private: give yours.
"""

from configs.common import UNDECAYED, new_run, variant, webdataset
from mmjax.models.sizes import TWO_TOWER

CHIPS = {"v5e-256": {"mesh": {"data": 16, "fsdp": 16}}}


def get_config(arg=""):
    config = new_run("two_tower", TWO_TOWER["siglip-so400m/14-384"], steps=150_000, batch_size=32_768)
    config.objective = {"kind": "sigmoid_contrastive"}
    config.data = {
        "sources": {
            "webli": webdataset(
                "data/webli/{00000..99999}.tar", max_tokens=64, options={"end_of_chunk": False, "fit": "stretch"}
            ),
        },
        "length": 64,
        "images": 1,
        "image_size": 384,
        "pack": False,
        "no_loss_before_first_image": False,
        "layout": {"image_tokens": 0, "bos": "none"},
    }
    # Padding is the end token, and the other special tokens are never written.
    ends = dict.fromkeys(("pad", "bos", "image", "end_of_chunk"), "</s>")
    config.tokenizer = {"kind": "sentencepiece", "path": "data/tokenizers/c4_en/sentencepiece.model", "special": ends}
    config.optim = {
        "learning_rate": 1e-3,
        "schedule": {"kind": "cosine", "warmup_steps": 10_000},
        "beta2": 0.95,
        "weight_decay": 1e-4,
        "clip_norm": 1.0,
        "groups": [{"pattern": UNDECAYED, "weight_decay": 0.0}, {"pattern": r".*"}],
    }
    return variant(config, arg, CHIPS)
