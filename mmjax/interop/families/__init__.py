"""The tables, one entry a `model_type` of config.json."""

from mmjax.interop.families.blip import BLIP
from mmjax.interop.families.convnext import convnext
from mmjax.interop.families.decoders import DECODERS
from mmjax.interop.families.encoder_decoder import vision_encoder_decoder
from mmjax.interop.families.idefics import idefics
from mmjax.interop.families.inline import INLINE
from mmjax.interop.families.mllama import mllama
from mmjax.interop.families.open_flamingo import open_flamingo
from mmjax.interop.families.qwen_vl import qwen2_5_vl
from mmjax.interop.families.tiled import TILED
from mmjax.interop.families.towers import TOWERS
from mmjax.interop.families.vision import VISION

_ALL = (
    *DECODERS,
    *VISION,
    convnext,
    *TOWERS,
    *INLINE,
    *TILED,
    *BLIP,
    qwen2_5_vl,
    open_flamingo,
    idefics,
    mllama,
    vision_encoder_decoder,
)
FAMILIES = {family.model_type: family for family in _ALL}
