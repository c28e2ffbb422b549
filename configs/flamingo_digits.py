"""A small Flamingo that reads handwritten digits and binds new words to them, in minutes on two CPU cores.

    mmjax train --config configs/flamingo_digits.py --workdir runs/digits
    mmjax eval --checkpoint runs/digits
    mmjax report --workdir runs/digits

Three phases: rows of digits to read, until the pictures are known; then short episodes in which nonsense words are
bound afresh to digit classes, so that only the shots tell them; then long ones, and scenes with questions. Binding is
a skill that appears suddenly: queries and keys that are normalised, and episodes with few tokens, bring it on early.
"""

import ml_collections

from configs.common import variant

# Digits that are never bound to a word in training: binding them is the test.
HELD_OUT = (2, 7)
BOUND = tuple(digit for digit in range(10) if digit not in HELD_OUT)
# No two begin alike: which word it is shows in its first letter.
WORDS = ("bim", "cug", "dax", "fep", "gav", "hux", "jop", "kel", "lum", "nad", "sef", "wug")


def get_config(arg=""):
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_steps = 700
    config.batch_size = 16
    config.log_every_steps = 25
    config.eval_every_steps = 0
    config.compute_dtype = "float32"
    config.model = {"family": "flamingo", "config": model()}
    binding = {"ways": [2], "classes": BOUND, "words": WORDS}
    config.data = {
        "sources": {
            "read": {"kind": "digits_read", "options": {"shots": [0, 1, 2, 3]}},
            "scene": {"kind": "digits_scene", "options": {}},
            "bind_short": {"kind": "digits_bind", "options": {**binding, "shots": [1], "question": ""}},
            "bind": {"kind": "digits_bind", "options": {**binding, "shots": [1, 2, 4]}},
        },
        "phases": [
            {"first_step": 0, "weights": {"read": 1.0}},
            {"first_step": 170, "weights": {"read": 1.0, "bind_short": 7.0}},
            {"first_step": 350, "weights": {"read": 1.0, "scene": 3.0, "bind_short": 1.0, "bind": 3.0}},
        ],
        "length": 160,
        "images": 9,
        "image_size": 32,
    }
    config.optim = {
        "learning_rate": 1e-3,
        "schedule": {"kind": "wsd", "warmup_steps": 30, "decay_share": 0.3, "end_factor": 0.05},
        "weight_decay": 0.01,
        "beta2": 0.98,
        "groups": [
            {"pattern": r".*(_gate|bias|scale|embedding|latents)", "weight_decay": 0.0},
            {"pattern": r".*"},
        ],
    }
    config.checkpoint = {"every_steps": 250, "keep_last": 2}
    return variant(config, arg)


def model():
    width = 96
    return {
        "vision": {
            "image_size": 32,
            "patch_size": 8,
            "width": 96,
            "layers": 2,
            "heads": 4,
            "mlp_width": 192,
            "stem": "convolution",
        },
        "resampler": {
            "width": 96,
            "layers": 1,
            "heads": 4,
            "head_width": 24,
            "latents": 8,
            "mlp_width": 192,
        },
        "decoder": {
            "vocab_size": 264,
            "width": width,
            "layers": 2,
            "heads": 2,
            "head_width": 48,
            "mlp_width": 256,
            "qk_norm": "head",
            "embedding_scale": True,
            "embedding_init": width**-0.5,
        },
        "cross": {
            "attention": {"heads": 2, "head_width": 48},
            "mlp_width": 192,
            "every": 1,
            "gate_init": 0.5,
        },
        "project_media": False,
    }
