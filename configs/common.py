"""Pieces that several config files share."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from mmjax.core.config import nearest, to_tree
from mmjax.core.errors import ConfigError
from mmjax.models.sizes import FLAMINGO

CROSS_ATTENTION = r"decoder/(layers|tail)/cross_\d+/.*"
# Norms, biases and lone numbers, which are not decayed where a paper says so.
UNDECAYED = r"(.*/)?([a-z_]*_)?(bias|scale)"


def new_run(family: str, model: Any, *, steps: int, batch_size: int) -> ml_collections.ConfigDict:
    """A run of `model`, a config of the family, in bfloat16; data and optimiser are to be added."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_steps = steps
    config.batch_size = batch_size
    config.log_every_steps = 100
    config.eval_every_steps = 0
    config.compute_dtype = "bfloat16"
    config.model = {"family": family, "config": to_tree(model)}
    config.checkpoint = {"every_steps": 1000, "keep_last": 3}
    return config


def frozen(pattern: str) -> dict[str, Any]:
    """A group of parameters that stay as they are."""
    return {"pattern": pattern, "frozen": True}


def webdataset(paths: str, **entry: Any) -> dict[str, Any]:
    """An entry of `data.sources`: tar shards of pictures with captions, as img2dataset writes them."""
    return source("webdataset", paths, **entry)


def source(kind: str, paths: str, *, options: Mapping[str, Any] | None = None, **entry: Any) -> dict[str, Any]:
    """An entry of `data.sources` that reads files."""
    return {"kind": kind, **entry, "options": {"paths": [paths], **(options or {})}}


def flamingo_paper(size: str, arg: str, chips: Mapping[str, Mapping[str, Any]]) -> ml_collections.ConfigDict:
    """A Flamingo of the paper's size with the paper's optimisation (Alayrac et al. 2022, section 2.4 and appendix B).

    AdamW at 1e-4 after 5,000 steps of warm-up, weight decay 0.1 except in the resampler, clipping at 1,
    500,000 steps; the vision encoder and the language model are frozen. Rows of 256 tokens and 5 images; the text of a
    page looks at the next picture with probability 0.5.

    The paper's data are private: M3W (pages, loss weight 1), ALIGN and LTIP (pairs, 0.2 each), VTP (videos of 8 frames,
    0.03). Give files of yours under these names: pages and videos as JSON lines, pairs as tar shards. The videos are
    read by `FILE:video` alone: rows have one shape, so that every picture then takes the place, and the time, of 8.
    """
    model = FLAMINGO[size]
    config = new_run("flamingo", model, steps=500_000, batch_size=2048)
    config.data = {
        "sources": {
            "m3w": source("jsonl", "data/m3w/{00000..00999}.jsonl", max_tokens=256),
            "align": webdataset("data/align/{00000..09999}.tar", loss_weight=0.2, max_tokens=64),
            "ltip": webdataset("data/ltip/{00000..09999}.tar", loss_weight=0.2, max_tokens=64),
        },
        "length": 256,
        "images": 5,
        "image_size": model.vision.image_size,
        "next_image_probability": 0.5,
    }
    if arg == "video":
        config.data.sources["vtp"] = source(
            "video", "data/vtp/{00000..00999}.jsonl", loss_weight=0.03, max_tokens=64, options={"video": {"frames": 8}}
        )
        config.data.frames = 8
    config.tokenizer = {"kind": "sentencepiece", "path": "data/tokenizers/chinchilla.model"}
    config.optim = {
        "learning_rate": 1e-4,
        "schedule": {"kind": "constant", "warmup_steps": 5000},
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "groups": [
            frozen(r"vision/.*"),
            {"pattern": r"resampler/.*", "weight_decay": 0.0},
            {"pattern": r"media_projection/.*"},
            {"pattern": CROSS_ATTENTION},
            frozen(r"decoder/.*"),
        ],
    }
    return variant(config, "" if arg == "video" else arg, chips)


def variant(
    config: ml_collections.ConfigDict, name: str, chips: Mapping[str, Mapping[str, Any]] | None = None
) -> ml_collections.ConfigDict:
    """The run as `FILE:NAME` on the command line names it: for some chips, or `tiny`.

    chips: by the name of a TPU slice (`v5e-256`: 256 chips), what the run changes there; the first is taken where no
    name is given.
    """
    chips = chips or {}
    if name and name not in (*VARIANTS, *chips):
        raise ConfigError(f"{name!r} is no variant of this config{nearest(name, (*VARIANTS, *chips))}")
    if chips:
        config.update(chips[name] if name in chips else next(iter(chips.values())))
    return VARIANTS[name](config) if name in VARIANTS else config


def _tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same run with every size cut to almost nothing: for tests, and for trying a change in seconds.

    What makes up the structure stays: groups, strides of the cross-attention, norms, phases, schedule, and the names
    and weights of the data sets, which become digit scans.
    """
    of_files = [name for name, entry in config.data.sources.items() if not entry.kind.startswith("digits_")]
    if of_files:
        config.data.update({"length": 40, "images": min(config.data.images, 3)})
    for name in of_files:
        config.data.sources[name] = _tiny_source(config.data.sources[name], interleaved=config.data.images > 1)
    _TINY_MODELS[config.model.family](config)
    config.data.image_size = 32
    config.tokenizer = {"kind": "byte"}
    phases = config.data.get("phases", ())
    config.data.phases = [{**phase, "first_step": 2 * number} for number, phase in enumerate(phases)]
    config.batch_size = 8
    config.total_steps = 4
    config.log_every_steps = 1
    config.checkpoint.every_steps = 2
    config.mesh = {"data": -1}
    return config


def _tiny_source(entry, *, interleaved):
    """Digits in place of files: two to a row where the files are pages, else one with a question."""
    pages = interleaved and entry.kind not in ("webdataset", "parquet", "csv")
    options = {"shots": [1] if pages else [0], "question": "" if pages else "which?", "count": 64}
    kept = {key: entry[key] for key in ("weight", "loss_weight") if key in entry}
    return ml_collections.ConfigDict({"kind": "digits_read", **kept, "options": options})


def _tiny_vision(vision):
    vision.update({"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "heads": 2, "mlp_width": 32})
    vision.remat = "none"
    if vision.get("projection", 0):
        vision.projection = 16
    layers = vision.get("feature_layer", -1)
    vision.feature_layer = min(layers, 2) if isinstance(layers, int) else layers


def _tiny_decoder(decoder, layers):
    decoder.update({"vocab_size": 264, "width": 16, "layers": layers, "heads": 2, "head_width": 8, "mlp_width": 32})
    decoder.remat = "none"


def _tiny_flamingo(config):
    model = config.model.config
    _tiny_vision(model.vision)
    model.resampler.update({"width": 16, "layers": 1, "heads": 2, "head_width": 8, "latents": 3, "mlp_width": 32})
    _tiny_decoder(model.decoder, 2 * model.cross.get("every", 1) + 1)  # two superblocks and a tail
    model.cross.update({"attention": {"heads": 2, "head_width": 8}, "mlp_width": 32})


def _tiny_two_tower(config):
    model = config.model.config
    _tiny_vision(model.vision)
    _tiny_decoder(model.text.decoder, 2)
    model.text.projection = 16
    if model.text.pool == "eos":
        model.text.eos = 2  # of the byte tokenizer
    model.text.decoder.max_length = config.data.length


def _tiny_inline(config):
    model = config.model.config
    _tiny_vision(model.vision)
    _tiny_decoder(model.decoder, 2)
    model.connector.width = 16
    model.connector.hidden = 16 if model.connector.hidden else 0
    model.image_token = 3  # of the byte tokenizer
    config.data.layout.image_tokens = 4


_TINY_MODELS = {"flamingo": _tiny_flamingo, "two_tower": _tiny_two_tower, "inline": _tiny_inline}
VARIANTS = {"tiny": _tiny}
