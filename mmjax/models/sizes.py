"""Published sizes of whole models."""

from __future__ import annotations

import dataclasses

from mmjax.layers.attention import AttentionConfig
from mmjax.models.connectors.resampler import ResamplerConfig
from mmjax.models.decoders.sizes import SIZES as DECODERS
from mmjax.models.encoders.sizes import SIZES as ENCODERS
from mmjax.models.flamingo import FlamingoConfig
from mmjax.models.fusion.gated import GatedCrossAttentionConfig


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


FLAMINGO: dict[str, FlamingoConfig] = {
    "flamingo-3b": _flamingo("chinchilla-1.4b", 1),
    "flamingo-9b": _flamingo("chinchilla-6.8b", 4),
    "flamingo-80b": _flamingo("chinchilla-70b", 7),
}
