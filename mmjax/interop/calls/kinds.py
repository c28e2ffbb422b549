"""Which adapter speaks for which model."""

from __future__ import annotations

from typing import Any

from mmjax.interop.calls.adapters import Adapter
from mmjax.interop.calls.encoder_decoder import ENCODER_DECODER
from mmjax.interop.calls.flamingo import FLAMINGO
from mmjax.interop.calls.inline import INLINE
from mmjax.interop.calls.mllama import MLLAMA
from mmjax.interop.calls.packed import PACKED
from mmjax.interop.calls.text import DECODER, ENCODER
from mmjax.interop.calls.vision import CONVNEXT, TWO_TOWER, VIT
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.models.encoders.convnext import ConvNeXtConfig
from mmjax.models.encoders.text import TextEncoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.encoders.window_vit import WindowViTConfig
from mmjax.models.flamingo import FlamingoConfig
from mmjax.models.inline import InlineConfig
from mmjax.models.mllama import MllamaConfig
from mmjax.models.two_tower import TwoTowerConfig

# By the class of the model's config.
_ADAPTERS: dict[type, Adapter] = {
    DecoderConfig: DECODER,
    TextEncoderConfig: ENCODER,
    ViTConfig: VIT,
    ConvNeXtConfig: CONVNEXT,
    TwoTowerConfig: TWO_TOWER,
    MllamaConfig: MLLAMA,
    EncoderDecoderConfig: ENCODER_DECODER,
    FlamingoConfig: FLAMINGO,
}
# And of models whose pictures stand in the text, by that of their encoder's.
_INLINE: dict[type, Adapter] = {ViTConfig: INLINE, WindowViTConfig: PACKED}


def find_adapter(config: Any) -> Adapter | None:
    """The adapter of models with such a config; None where there is none."""
    return _INLINE[type(config.vision)] if isinstance(config, InlineConfig) else _ADAPTERS.get(type(config))
