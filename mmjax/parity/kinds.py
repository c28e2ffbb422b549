"""Which adapter speaks for which model."""

from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.convnext import ConvNeXtConfig
from mmjax.models.encoders.text import TextEncoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.two_tower import TwoTowerConfig
from mmjax.parity.adapters import Adapter
from mmjax.parity.text import DECODER, ENCODER
from mmjax.parity.vision import CONVNEXT, TWO_TOWER, VIT

# By the class of the model's config.
ADAPTERS: dict[type, Adapter] = {
    DecoderConfig: DECODER,
    TextEncoderConfig: ENCODER,
    ViTConfig: VIT,
    ConvNeXtConfig: CONVNEXT,
    TwoTowerConfig: TWO_TOWER,
}
