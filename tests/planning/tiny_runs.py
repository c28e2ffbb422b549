"""Configurations of tiny models, one of each family, whose costs can be written out by hand."""

from mmjax.core.config import build
from mmjax.training.run import RunConfig

VISION = {"image_size": 8, "patch_size": 4, "width": 12, "layers": 2, "heads": 2, "mlp_width": 20}
DECODER = {
    "vocab_size": 264,
    "width": 16,
    "layers": 4,
    "heads": 2,
    "head_width": 8,
    "kv_heads": 1,
    "mlp_width": 24,
}
FAMILIES = {
    "flamingo": {
        "vision": VISION,
        "resampler": {"width": 20, "layers": 2, "heads": 2, "head_width": 8, "latents": 3, "mlp_width": 28},
        "decoder": DECODER,
        "cross": {"attention": {"heads": 3, "head_width": 6}, "mlp_width": 32, "every": 2},
        "project_media": True,
    },
    "inline": {
        "vision": VISION,
        "connector": {"width": 16, "hidden": 24},
        "decoder": {**DECODER, "tied_embeddings": False},
        "image_token": 3,
    },
    "two_tower": {
        "vision": {**VISION, "class_token": True, "pool": "class", "projection": 10},
        "text": {
            "decoder": {**DECODER, "positions": "learned", "max_length": 12},
            "pool": "last",
            "projection": 10,
        },
    },
}


def tiny_run(family, *, frozen=(), rows=4, length=24, images=2, **changes):
    """A run of a tiny model; `frozen` are patterns of what is not trained. `changes` are settings of the run."""
    pairs = family == "two_tower"
    settings = {
        "seed": 0,
        "total_steps": 10,
        "batch_size": rows,
        "log_every_steps": 1,
        "eval_every_steps": 0,
        "compute_dtype": "float32",
        "model": {"family": family, "config": FAMILIES[family]},
        "data": {
            "sources": {"read": {"kind": "digits_read", "options": {}}},
            "length": 12 if pairs else length,
            "images": 1 if pairs else images,
            "image_size": 8,
            "pack": not pairs,
            "layout": {"image_tokens": {"flamingo": 1, "inline": 4, "two_tower": 0}[family]},
        },
        "optim": {
            "learning_rate": 1e-3,
            "groups": [*({"pattern": pattern, "frozen": True} for pattern in frozen), {"pattern": ".*"}],
        },
    }
    if pairs:
        settings["objective"] = {"kind": "softmax_contrastive"}
    return build(RunConfig, {**settings, **changes}).resolved()
