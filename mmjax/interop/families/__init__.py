"""The tables, one entry a `model_type` of config.json."""

from mmjax.interop.families.convnext import convnext
from mmjax.interop.families.decoders import DECODERS
from mmjax.interop.families.towers import TOWERS
from mmjax.interop.families.vision import VISION

FAMILIES = {family.model_type: family for family in (*DECODERS, *VISION, convnext, *TOWERS)}
