"""Published sizes of whole models.

Towers that stay frozen in the runs they are for keep nothing for a backward pass; `remat` of the others is a choice.
"""

from __future__ import annotations

import dataclasses

from mmjax.layers.attention import AttentionConfig
from mmjax.models.connectors.projector import ProjectorConfig
from mmjax.models.connectors.resampler import ResamplerConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.sizes import SIZES as DECODERS
from mmjax.models.encoders.sizes import SIZES as ENCODERS
from mmjax.models.encoders.text import TextEncoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import FlamingoConfig
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.models.inline import InlineConfig
from mmjax.models.two_tower import TwoTowerConfig


def _flamingo(decoder: str, every: int) -> FlamingoConfig:
    """Flamingo as in the paper's tables 1 and 5.

    The vision encoder of the paper, NFNet-F6 (435M, 320 px), is replaced by the vision transformer of nearly the same
    size, So400m/14. Media are mapped to the decoder's width before the cross-attention, which the paper's
    parameter counts imply (12 width^2 a block).
    """
    language = dataclasses.replace(DECODERS[decoder], remat="full")
    return FlamingoConfig(
        vision=dataclasses.replace(ENCODERS["So400m/14"], image_size=322, pool="none", remat="full"),
        resampler=ResamplerConfig(1536, 6, 16, 96, 64, 6144, max_frames=8),
        decoder=language,
        cross=GatedCrossAttentionConfig(
            AttentionConfig(language.heads, language.head_width), 4 * language.width, every=every
        ),
        project_media=True,
    )


# Of CLIP's pictures.
_CLIP_PIXELS = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}


def _open_flamingo() -> FlamingoConfig:
    """OpenFlamingo-9B (Awadalla et al. 2023): CLIP-L/14, and MPT-7B with tokens for images and ends of chunks."""
    language = dataclasses.replace(DECODERS["mpt-7b"], vocab_size=50_280, remat="full")
    return FlamingoConfig(
        vision=dataclasses.replace(ENCODERS["CLIP-L/14"], projection=768),
        resampler=ResamplerConfig(1024, 6, 8, 64, 64, 4096, activation="gelu", shared_kv=True),
        decoder=language,
        cross=GatedCrossAttentionConfig(
            AttentionConfig(8, 64), 4 * language.width, every=4, offset=3, activation="gelu"
        ),
        image_token=50_278,
        chunk_end=50_277,
        **_CLIP_PIXELS,
    )


def _idefics(decoder: str, gate_shape: str) -> FlamingoConfig:
    """IDEFICS (Laurencon et al. 2023): CLIP-H/14 and LLaMA, with norms of queries and keys and two added tokens."""
    language = dataclasses.replace(DECODERS[decoder], vocab_size=32_002, added_vocab=2, remat="full")
    looks = AttentionConfig(language.heads, language.head_width, qk_norm="head")
    return FlamingoConfig(
        vision=dataclasses.replace(ENCODERS["CLIP-H/14"], feature_layer=32, feature_tokens="all"),
        resampler=ResamplerConfig(1280, 6, 16, 96, 64, 5120, activation="relu", shared_kv=True, qk_norm=True),
        decoder=language,
        cross=GatedCrossAttentionConfig(
            looks,
            language.mlp_width,
            every=4,
            activation="silu",
            mlp_gated=True,
            norm="rms",
            norm_eps=1e-6,
            gate_shape=gate_shape,
        ),
        **_CLIP_PIXELS,
    )


def _text_tower(
    vocab_size, width, layers, heads, mlp_width, length, *, pool, projection_bias=False, **decoder
) -> TextEncoderConfig:
    settings = {"norm": "layer", "mlp_gated": False, "mlp_bias": True, "qkv_bias": True, "out_bias": True}
    settings |= {"positions": "learned", "max_length": length, "remat": "full"} | decoder
    layers_of_it = DecoderConfig(vocab_size, width, layers, heads, width // heads, mlp_width, **settings)
    return TextEncoderConfig(layers_of_it, pool, projection=width, projection_bias=projection_bias)


def _inline(vision: ViTConfig, decoder: DecoderConfig, hidden: int = 0, **kwargs) -> InlineConfig:
    language = dataclasses.replace(decoder, remat="full")
    return InlineConfig(vision, ProjectorConfig(decoder.width, hidden), language, **kwargs)


FLAMINGO: dict[str, FlamingoConfig] = {
    "flamingo-3b": _flamingo("chinchilla-1.4b", 1),
    "flamingo-9b": _flamingo("chinchilla-6.8b", 4),
    "flamingo-80b": _flamingo("chinchilla-70b", 7),
    "openflamingo-9b": _open_flamingo(),
    "idefics-9b": _idefics("llama-7b", "scalar"),
    "idefics-80b": _idefics("llama-65b", "channel"),
}
TWO_TOWER: dict[str, TwoTowerConfig] = {
    "clip-l/14": TwoTowerConfig(
        dataclasses.replace(ENCODERS["CLIP-L/14"], projection=768, remat="full"),
        _text_tower(49_408, 768, 12, 12, 3072, 77, pool="eos", norm_eps=1e-5, activation="gelu_quick"),
        **_CLIP_PIXELS,
    ),
    "siglip-so400m/14-384": TwoTowerConfig(
        dataclasses.replace(ENCODERS["So400m/14-384"], remat="full"),
        _text_tower(
            32_000,
            1152,
            27,
            16,
            4304,
            64,
            pool="last",
            projection_bias=True,
            activation="gelu_tanh",
            causal=False,
        ),
        scale_init=2.302585,
        bias_init=-10.0,
    ),
}
INLINE: dict[str, InlineConfig] = {
    "llava-1.5-7b": _inline(
        dataclasses.replace(ENCODERS["CLIP-L/14-336"], feature_layer=-2),
        dataclasses.replace(DECODERS["vicuna-7b"], vocab_size=32_064),
        hidden=4096,
        image_token=32_000,
        **_CLIP_PIXELS,
    ),
    "paligemma-3b": _inline(
        dataclasses.replace(ENCODERS["So400m/14"], pool="none", remat="full"),
        dataclasses.replace(DECODERS["gemma-2b"], vocab_size=257_216),
        image_token=257_152,
        sees="prefix",
    ),
}
