"""PaliGemma-3B at 224 pixels (Beyer et al. 2024), from SigLIP-So400m/14 and Gemma-2B; meant for v5e-256, as the paper.

mmjax inspect --config configs/paligemma_3b.py
mmjax train --config configs/paligemma_3b.py --workdir DIR --config.init_from=CHECKPOINT

The first stage: a billion examples in batches of 8,192, nothing frozen; each row is a picture (256 tokens), the task's
prompt, which all of it sees, and an answer, to 128 tokens of text. The paper's mixture is private but for its names:
captions of WebLI, questions and answers made from captions (CC3M-35L), objects of Open Images, Wikipedia's pictures.
"""

from configs.common import new_run, source, variant
from mmjax.models.sizes import INLINE

CHIPS = {"v5e-256": {"mesh": {"data": 16, "fsdp": 16, "strategy": "full"}}}


def get_config(arg=""):
    model = INLINE["paligemma-3b"]
    config = new_run("inline", model, steps=122_071, batch_size=8192)
    text = {
        "options": {
            "prompt_column": "prefix",
            "separator": "\n",
            "text": "suffix",
            "fit": "stretch",
            "end_of_chunk": False,
        }
    }
    config.data = {
        "sources": {
            "webli_captions": source("parquet", "data/webli/{00000..09999}.parquet", weight=4.0, **text),
            "cc3m_35l_vqa": source("parquet", "data/cc3m-35l/{00000..00331}.parquet", weight=2.0, **text),
            "open_images_objects": source("parquet", "data/open-images/{00000..00255}.parquet", weight=1.0, **text),
            "wit": source("parquet", "data/wit/{00000..00329}.parquet", weight=1.0, **text),
        },
        "length": 384,
        "images": 1,
        "image_size": 224,
        "pack": False,
        "layout": {"image_tokens": model.image_tokens, "bos": "after_images"},
    }
    config.tokenizer = {"kind": "tokenizer_json", "path": "data/tokenizers/paligemma/tokenizer.json"}
    config.optim = {
        "learning_rate": 2e-5,
        "schedule": {"kind": "constant", "warmup_steps": 4000},
        "clip_norm": 1.0,
    }
    return variant(config, arg, CHIPS)
