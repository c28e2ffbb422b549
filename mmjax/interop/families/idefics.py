"""IDEFICS (Laurençon et al. 2023): CLIP's picture tower, a Llama whose vocabulary is in two tables; one flat config."""

from __future__ import annotations

import dataclasses
from typing import Any

from mmjax.interop.configs import read_config
from mmjax.interop.families.decoder_settings import head_width, rope, sizes, tied
from mmjax.interop.families.decoders import LLAMA_ROWS, PRE_NORM, decoder_family
from mmjax.interop.families.flamingo import flamingo_family, flamingo_places, gates
from mmjax.interop.families.rows import ACTIVATIONS, attention, linear, norm
from mmjax.interop.families.vision import CLIP_EMBEDDINGS, clip_vision, tower_settings
from mmjax.interop.family import Part, Place, Row
from mmjax.interop.settings import Setting, Tree, fixed, lookup, named, same
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.flamingo import FlamingoConfig


def _two_vocabularies() -> Setting:
    """vocab_size, and additional_vocab_size beyond it."""

    def read(outside: Tree) -> dict[str, Any]:
        added = outside.get("additional_vocab_size", 0)
        return {"vocab_size": outside["vocab_size"] + added, "added_vocab": added}

    def write(config: DecoderConfig) -> dict[str, Any]:
        return {"vocab_size": config.vocab_size - config.added_vocab, "additional_vocab_size": config.added_vocab}

    return Setting(read, write)


_IDEFICS_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
_idefics_decoder = decoder_family(
    "idefics",
    "IdeficsForVisionText2Text",
    _IDEFICS_DEFAULTS,
    (
        *sizes(),
        _two_vocabularies(),
        same("rms_norm_eps", "norm_eps", 1e-6),
        named("hidden_act", "activation", ACTIVATIONS, "silu"),
        head_width(written=False),
        tied(False),
        rope(),
    ),
    (
        *LLAMA_ROWS,
        *PRE_NORM,
        Row("{base}embed_tokens.additional_embedding.weight", "added_embedding"),
        Row("{head}lm_head.additional_fc.weight", "added_unembedding", tied_to="added_embedding"),
    ),
    ignored=(r".*rotary_emb\.inv_freq",),
)
_idefics_vision = dataclasses.replace(
    clip_vision,
    model_type="idefics_vision",
    architecture="IdeficsVisionTransformer",
    settings=tower_settings(
        same("intermediate_size", "mlp_width"),
        named("hidden_act", "activation", ACTIVATIONS, "gelu"),
        *CLIP_EMBEDDINGS,
        fixed(feature_tokens="all"),
        # The last norm is for the class token alone, which nothing reads.
        Setting(lambda outside: {"feature_layer": outside["num_hidden_layers"]}, lambda config: {}),
        image_size=224,
        patch_size=14,
        eps=1e-5,
        width="embed_dim",
    ),
    defaults={
        "embed_dim": 768,
        "image_size": 224,
        "intermediate_size": 5120,
        "patch_size": 14,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
    },
    detect=lambda shapes, spelling: {},
    not_exported=("remat",),
)


def _idefics_resampler() -> Setting:
    """use_resampler, and perceiver_config where it says yes."""

    keys = {
        "resampler_n_latents": ("latents", 64),
        "resampler_depth": ("layers", 6),
        "resampler_n_heads": ("heads", 16),
        "resampler_head_dim": ("head_width", 96),
        "qk_layer_norms_perceiver": ("qk_norm", False),
    }

    def read(outside: Tree) -> dict[str, Any]:
        if not outside.get("use_resampler", False):
            return {"resampler": None}
        width = lookup(outside, "vision_config.embed_dim", _idefics_vision.defaults["embed_dim"])
        fields = {field: lookup(outside, f"perceiver_config.{key}", value) for key, (field, value) in keys.items()}
        fixed_fields = {"activation": "relu", "shared_kv": True, "norm_eps": 1e-5, "max_frames": 0}
        return {"resampler": {**fields, **fixed_fields, "width": width, "mlp_width": 4 * width}}

    def write(config: FlamingoConfig) -> dict[str, Any]:
        if config.resampler is None:
            return {"use_resampler": False}
        sizes = {f"perceiver_config.{key}": getattr(config.resampler, field) for key, (field, _) in keys.items()}
        return {"use_resampler": True, "perceiver_config.use_resampler": True, **sizes}

    return Setting(read, write)


def _idefics_cross() -> Setting:
    """cross_layer_interval, qk_layer_norms and alpha_type; the rest is as in the decoder."""

    shapes = {"float": "scalar", "vector": "channel"}
    gates = named("alpha_type", "gate_shape", shapes, "float")

    def read(outside: Tree) -> dict[str, Any]:
        decoder = read_config(_idefics_decoder, outside)
        looks = {
            "heads": decoder.heads,
            "head_width": decoder.head_width,
            "qk_norm": "head" if outside.get("qk_layer_norms", False) else "none",
            "norm_eps": decoder.norm_eps,
        }
        own = {"every": outside.get("cross_layer_interval", 1), "offset": 0, "attention": looks, **gates.read(outside)}
        same_as_decoder = {
            name: getattr(decoder, name) for name in ("mlp_width", "mlp_gated", "activation", "norm_eps")
        }
        return {"cross": {**own, **same_as_decoder, "norm": "rms"}}

    def write(config: FlamingoConfig) -> dict[str, Any]:
        cross = config.cross
        qk_norm = cross.attention.qk_norm == "head"
        return {"cross_layer_interval": cross.every, "qk_layer_norms": qk_norm, **gates.write(cross)}

    return Setting(read, write)


def _idefics_places(config: FlamingoConfig) -> dict[str, dict[int, Place]]:
    """As in any Flamingo, but for the cross-attention blocks, which are counted."""
    places = flamingo_places(config)
    return {**places, "cross": dict(enumerate(places["cross"].values()))}


_READING = "{model}perceiver_resampler.blocks.{reading}"
_LOOKING = "{model}gated_cross_attn_layers.{cross}"
_IDEFICS_ROWS = [
    Row("{model}perceiver_resampler.latents", "resampler/latents"),
    *norm("{model}perceiver_resampler.layer_norm", "resampler/final_norm"),
    *norm(f"{_READING}.0.context_layer_norm", "{reading}/media_norm"),
    *norm(f"{_READING}.0.latents_layer_norm", "{reading}/attention_norm"),
    *norm(f"{_READING}.0.q_layer_norm", "{reading}/attention/query_norm"),
    *norm(f"{_READING}.0.k_layer_norm", "{reading}/attention/key_norm"),
    *attention(f"{_READING}.0", "{reading}/attention", "q_proj", "k_proj", "v_proj", "output_proj"),
    *norm(f"{_READING}.1.ln", "{reading}/mlp_norm"),
    *linear(f"{_READING}.1.fc", "{reading}/mlp/up"),
    *linear(f"{_READING}.1.c_proj", "{reading}/mlp/down"),
    *norm(f"{_LOOKING}.input_layernorm", "{cross}/attention_norm"),
    *norm(f"{_LOOKING}.cross_attn.q_layer_norm", "{cross}/attention/query_norm"),
    *norm(f"{_LOOKING}.cross_attn.k_layer_norm", "{cross}/attention/key_norm"),
    *attention(f"{_LOOKING}.cross_attn", "{cross}/attention", "q_proj", "k_proj", "v_proj", "o_proj"),
    *norm(f"{_LOOKING}.post_attention_layernorm", "{cross}/mlp_norm"),
    *linear(f"{_LOOKING}.mlp.up_proj", "{cross}/mlp/up"),
    *linear(f"{_LOOKING}.mlp.gate_proj", "{cross}/mlp/gate"),
    *linear(f"{_LOOKING}.mlp.down_proj", "{cross}/mlp/down"),
    *gates((f"{_LOOKING}.alpha_cross_attn", f"{_LOOKING}.alpha_dense")),
]
idefics = flamingo_family(
    "idefics",
    "IdeficsForVisionText2Text",
    (Part("vision", "vision_config", (_idefics_vision,)), Part("decoder", "", (_idefics_decoder,))),
    (_idefics_resampler(), _idefics_cross()),
    _IDEFICS_ROWS,
    places=_idefics_places,
    defaults=_IDEFICS_DEFAULTS,
    spellings=(
        {"model": "model.", "decoder.base": "model.", "vision.base": "model.vision_model."},
        {"vision.base": "vision_model."},
    ),
)
