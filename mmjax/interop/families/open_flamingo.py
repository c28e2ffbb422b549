"""OpenFlamingo (Awadalla et al. 2023): a picture tower of open_clip, a language model of transformers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from mmjax.core.errors import InputError
from mmjax.interop.configs import read_config
from mmjax.interop.families.decoders import gpt_neox, llama, mistral, mpt, opt
from mmjax.interop.families.flamingo import flamingo_family, flamingo_places, gates
from mmjax.interop.families.rows import PATCHES, from_heads, fused, linear, norm, qkv, to_heads
from mmjax.interop.families.vision import CLIP_EMBEDDINGS, clip_vision
from mmjax.interop.family import Family, Part, Row, Spelling
from mmjax.interop.settings import Setting, Tree, fixed, lookup, named, only, same
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import FlamingoConfig


def _share_of_width(key: str, default: float, field: str, share: str) -> Setting:
    """open_clip's head_width and mlp_ratio."""

    def read(outside: Tree) -> dict[str, Any]:
        value = outside.get(key, default)
        return {field: outside["width"] // value if share == "part" else int(outside["width"] * value)}

    def write(config: ViTConfig) -> dict[str, Any]:
        value = getattr(config, field)
        if share == "part":
            return {key: config.width // value}
        ratio = value / config.width
        return {key: ratio if int(config.width * ratio) == value else math.nextafter(ratio, math.inf)}

    return Setting(read, write)


def _last_norm() -> Setting:
    """final_ln_after_pool: the patches have not gone through the last norm, only the class token has.

    So it was for all of open_clip's towers before version 2.24, with which OpenFlamingo was trained.
    """

    def read(outside: Tree) -> dict[str, Any]:
        return {"feature_layer": outside["layers"] if outside.get("final_ln_after_pool", False) else -1}

    return Setting(read, lambda config: {"final_ln_after_pool": config.feature_layer == config.layers})


_BLOCK = "{base}transformer.resblocks.{layer}"
open_clip_vision = dataclasses.replace(
    clip_vision,
    model_type="open_clip_vision",
    architecture="VisionTransformer",
    settings=(
        same("width", "width"),
        same("layers", "layers"),
        same("image_size", "image_size", 224),
        same("patch_size", "patch_size", 16),
        _share_of_width("head_width", 64, "heads", "part"),
        _share_of_width("mlp_ratio", 4.0, "mlp_width", "multiple"),
        named("quick_gelu", "activation", {True: "gelu_quick", False: "gelu"}, False),
        _last_norm(),
        *CLIP_EMBEDDINGS,
        fixed(norm_eps=1e-5),
        only("attentional_pool", False),
        only("ls_init_value", None),
        only("no_ln_pre", False),
        only("pos_embed_type", "learnable"),
        only("pool_type", "tok"),
        only("timm_model_name", None),
    ),
    rows=(
        Row("{base}class_embedding", "class_token", "1 D -> D"),
        Row("{base}positional_embedding", ("class_position", "position_embedding"), "P D -> +P D"),
        Row("{base}conv1.weight", "patch_kernel", PATCHES),
        Row("{base}proj", "projection/kernel"),
        *norm("{base}ln_pre", "embedding_norm"),
        *norm("{base}ln_post", "final_norm"),
        *norm(f"{_BLOCK}.ln_1", "{layer}/attention_norm"),
        *norm(f"{_BLOCK}.ln_2", "{layer}/mlp_norm"),
        *fused(f"{_BLOCK}.attn.in_proj", qkv("{layer}/attention"), "D H K -> (+H K) D", "H K -> (+H K)", join="_"),
        *from_heads(f"{_BLOCK}.attn.out_proj", "{layer}/attention/out"),
        *linear(f"{_BLOCK}.mlp.c_fc", "{layer}/mlp/up"),
        *linear(f"{_BLOCK}.mlp.c_proj", "{layer}/mlp/down"),
    ),
    defaults={"layers": 12, "width": 768},
    spellings=({"base": "visual."}, {}),
    detect=lambda shapes, spelling: {"projection": shapes.get(f"{spelling.get('base', '')}proj", (0, 0))[1]},
    not_exported=("remat", "projection"),
)


def _open_flamingo_sizes() -> Setting:
    """heads, dim_head, depth and latents; the resampler and the cross-attention have heads alike."""

    def read(outside: Tree) -> dict[str, Any]:
        heads = {"heads": outside.get("heads", 8), "head_width": outside.get("dim_head", 64)}
        width = outside.get("vis_dim", lookup(outside, "vision_cfg.width", 768))
        sizes = {"width": width, "mlp_width": 4 * width, "layers": outside.get("depth", 6)}
        return {
            "resampler": {**heads, **sizes, "latents": outside.get("latents", 64)},
            "cross": {"attention": {**heads}},
        }

    def write(config: FlamingoConfig) -> dict[str, Any]:
        resampler = config.resampler
        if resampler is None:
            raise InputError("OpenFlamingo always has a resampler; this model has none")
        return {
            "heads": resampler.heads,
            "dim_head": resampler.head_width,
            "vis_dim": resampler.width,
            "depth": resampler.layers,
            "latents": resampler.latents,
        }

    return Setting(read, write)


def _every() -> Setting:
    """cross_attn_every_n_layers: before the n-th layer, the 2n-th, and so on."""

    def read(outside: Tree) -> dict[str, Any]:
        every = outside.get("cross_attn_every_n_layers", 1)
        return {"cross": {"every": every, "offset": every - 1}}

    return Setting(read, lambda config: {"cross_attn_every_n_layers": config.cross.every})


_OPEN_FLAMINGO_ROWS = [
    Row("perceiver.latents", "resampler/latents"),
    *norm("perceiver.norm", "resampler/final_norm"),
    *norm("perceiver.layers.{reading}.0.norm_media", "{reading}/media_norm"),
    *norm("perceiver.layers.{reading}.0.norm_latents", "{reading}/attention_norm"),
    *norm("perceiver.layers.{reading}.1.0", "{reading}/mlp_norm"),
    *linear("perceiver.layers.{reading}.1.1", "{reading}/mlp/up"),
    *linear("perceiver.layers.{reading}.1.3", "{reading}/mlp/down"),
    *norm("{blocks}{cross}.attn.norm", "{cross}/attention_norm"),
    *norm("{blocks}{cross}.ff.0", "{cross}/mlp_norm"),
    *linear("{blocks}{cross}.ff.1", "{cross}/mlp/up"),
    *linear("{blocks}{cross}.ff.3", "{cross}/mlp/down"),
    *gates(("{blocks}{cross}.attn_gate", "{blocks}{cross}.ff_gate")),
    *(
        row
        for outside, inside in (("perceiver.layers.{reading}.0", "{reading}"), ("{blocks}{cross}.attn", "{cross}"))
        for row in (
            *to_heads(f"{outside}.to_q", f"{inside}/attention/query"),
            *fused(f"{outside}.to_kv", qkv(f"{inside}/attention")[1:], "D H K -> (+H K) D", "H K -> (+H K)"),
            *from_heads(f"{outside}.to_out", f"{inside}/attention/out"),
        )
    ),
]


def _open_flamingo_spellings(decoder: Family) -> tuple[Spelling, ...]:
    """The language model's own names, its layers within others; the blocks before them there, or in a list apart."""
    own = decoder.spellings[0]
    layers = next(row.outside.partition("{layer}")[0] for row in decoder.rows if "{layer}" in row.outside)
    common = {
        "vision.base": "vision_encoder.",
        "decoder.base": f"lang_encoder.{own['base']}",
        "decoder.head": "lang_encoder.",
        "decoder.layer": "{}.decoder_layer",
    }
    within = {"blocks": f"lang_encoder.{layers.format(**own)}", "cross": "{}.gated_cross_attn_layer"}
    apart = {"blocks": "lang_encoder.gated_cross_attn_layers.", "cross": "{}"}
    outputs = ("lm_head", "embed_out") if "output" in own else ("lm_head",)
    return tuple({**common, **blocks, "decoder.output": name} for blocks in (within, apart) for name in outputs)


def _open_flamingo_by_parts(family: Family) -> Family:
    """With the names of the language model's tensors, and the cross-attention's feed-forward 4 times as wide as it."""
    part = next(part for part in family.parts if part.field == "decoder")

    def read(outside: Tree) -> dict[str, Any]:
        return {"cross": {"mlp_width": 4 * read_config(part.family, part.config_in(outside)).width}}

    settings = (*family.settings, Setting(read, lambda config: {}))
    return dataclasses.replace(family, spellings=_open_flamingo_spellings(part.family), settings=settings)


open_flamingo = flamingo_family(
    "open_flamingo",
    "Flamingo",
    (
        Part("vision", "vision_cfg", (open_clip_vision,)),
        Part("decoder", "lang", (llama, gpt_neox, mpt, opt, mistral)),
    ),
    (
        same("media_token_id", "image_token"),
        same("eoc_token_id", "chunk_end"),
        _open_flamingo_sizes(),
        _every(),
        fixed(
            resampler={"activation": "gelu", "shared_kv": True, "norm_eps": 1e-5, "qk_norm": False, "max_frames": 0},
            cross={"activation": "gelu", "norm": "layer", "norm_eps": 1e-5, "gate_shape": "scalar"},
        ),
    ),
    _OPEN_FLAMINGO_ROWS,
    places=flamingo_places,
    # The same storage by other names, and buffers of the language models.
    ignored=(
        r"lang_encoder\.(old_decoder_blocks|gated_cross_attn_layers)\..*",
        r"lang_encoder\..*\.attn\.(bias|masked_bias)",
    ),
    by_parts=_open_flamingo_by_parts,
)
