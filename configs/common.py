"""Pieces that several config files share."""

import ml_collections

from mmjax.core.config import nearest, to_tree
from mmjax.core.errors import ConfigError
from mmjax.models.sizes import FLAMINGO


def flamingo_paper(size: str) -> ml_collections.ConfigDict:
    """A Flamingo of the paper's size with the paper's optimisation (Alayrac et al. 2022, appendix B).

    AdamW at 1e-4 after 5,000 steps of warm-up, weight decay 0.1 except in the resampler, clipping at 1,
    500,000 steps; the vision encoder and the language model are frozen. The paper's data are private: the rows here
    come from the digit scans at full size and in the paper's shape (256 tokens, 5 images), so that the program can be
    compiled, planned and timed; give your own under data.sources.
    """
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_steps = 500_000
    config.batch_size = 2048
    config.log_every_steps = 100
    config.eval_every_steps = 0
    config.compute_dtype = "bfloat16"
    model = to_tree(FLAMINGO[size])
    config.model = {"family": "flamingo", "config": model}
    config.data = {
        "sources": {
            "interleaved": {"kind": "digits_read", "weight": 1.0, "options": {"shots": [3]}},
            "pairs": {"kind": "digits_read", "weight": 1.0, "loss_weight": 0.2, "options": {"shots": [0]}},
        },
        "length": 256,
        "images": 5,
        "image_size": model["vision"]["image_size"],
    }
    config.optim = {
        "learning_rate": 1e-4,
        "schedule": {"kind": "constant", "warmup_steps": 5000},
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "groups": [
            {"pattern": r"vision/.*", "frozen": True},
            {"pattern": r"resampler/.*", "weight_decay": 0.0},
            {"pattern": r"media_projection/.*"},
            {"pattern": r"decoder/(layers|tail)/cross_\d+/.*"},
            {"pattern": r"decoder/.*", "frozen": True},
        ],
    }
    config.checkpoint = {"every_steps": 1000, "keep_last": 3}
    return config


def variant(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The run as it stands, or its variant of that name: `FILE:NAME` on the command line."""
    if name and name not in VARIANTS:
        raise ConfigError(f"{name!r} is no variant of this config{nearest(name, VARIANTS)}")
    return VARIANTS[name](config) if name else config


def _tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same run with every size cut to almost nothing: for tests, and for trying a change in seconds.

    What makes up the structure stays: groups, strides of the cross-attention, norms, data sets, phases, schedule.
    """
    model = config.model.config
    model.vision.update(
        {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "heads": 2, "mlp_width": 32, "remat": "none"}
    )
    model.resampler.update({"width": 16, "layers": 1, "heads": 2, "head_width": 8, "latents": 3, "mlp_width": 32})
    layers = 2 * model.cross.get("every", 1) + 1  # two superblocks and a tail
    model.decoder.update(
        {
            "vocab_size": 264,
            "width": 16,
            "layers": layers,
            "heads": 2,
            "head_width": 8,
            "mlp_width": 32,
            "remat": "none",
        }
    )
    model.cross.update({"attention": {"heads": 2, "head_width": 8}, "mlp_width": 32})
    config.data.image_size = 32
    phases = config.data.get("phases", ())
    config.data.phases = [{**phase, "first_step": 2 * number} for number, phase in enumerate(phases)]
    config.batch_size = 8
    config.total_steps = 4
    config.log_every_steps = 1
    config.checkpoint.every_steps = 2
    config.mesh = {"data": -1}
    return config


VARIANTS = {"tiny": _tiny}


VARIANTS = {"tiny": _tiny}
