"""Which adapter speaks for which model."""

from mmjax.interop.calls.adapters import Adapter
from mmjax.interop.calls.encoder_decoder import ENCODER_DECODER
from mmjax.interop.calls.flamingo import FLAMINGO
from mmjax.interop.calls.inline import INLINE
from mmjax.interop.calls.mllama import MLLAMA
from mmjax.interop.calls.packed import PACKED, by_encoder
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
ADAPTERS: dict[type, Adapter] = {
    DecoderConfig: DECODER,
    TextEncoderConfig: ENCODER,
    ViTConfig: VIT,
    ConvNeXtConfig: CONVNEXT,
    TwoTowerConfig: TWO_TOWER,
    InlineConfig: by_encoder({ViTConfig: INLINE, WindowViTConfig: PACKED}),
    MllamaConfig: MLLAMA,
    EncoderDecoderConfig: ENCODER_DECODER,
    FlamingoConfig: FLAMINGO,
}
