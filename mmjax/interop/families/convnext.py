"""ConvNeXt of transformers, with and without a classifier."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mmjax.core.errors import InputError
from mmjax.interop.families.rows import ACTIVATIONS, PATCHES, linear, norm
from mmjax.interop.family import Family, Place, Row
from mmjax.interop.settings import Setting, Tree, fixed, labels, named, only, same, written
from mmjax.models.encoders.convnext import ConvNeXt, ConvNeXtConfig

# The table has rows for so many stages, which all published models have.
MOST_STAGES = 4


def _stages() -> Setting:
    """Depths and widths, one for each stage; the number of stages is also said on its own."""

    def read(outside: Tree) -> dict[str, Any]:
        depths, widths, stages = outside["depths"], outside["hidden_sizes"], outside["num_stages"]
        if not len(depths) == len(widths) == stages <= MOST_STAGES:
            raise InputError(
                f"config.json has num_stages={stages}, depths={depths} and hidden_sizes={widths}; "
                f"they must agree, and at most {MOST_STAGES} stages are supported"
            )
        return {"depths": tuple(depths), "widths": tuple(widths)}

    def write(config: ConvNeXtConfig) -> dict[str, Any]:
        return {
            "depths": list(config.depths),
            "hidden_sizes": list(config.widths),
            "num_stages": len(config.depths),
        }

    return Setting(read, write)


def _head(config: ConvNeXtConfig) -> dict[str, Any]:
    if not config.projection:
        return {"architectures": ["ConvNextModel"]}
    return {"architectures": ["ConvNextForImageClassification"], **labels(config.projection)}


def _detect(shapes, spelling) -> dict[str, Any]:
    """A classifier is there or not; config.json names labels in either case."""
    return {"projection": shapes["classifier.weight"][0]} if "classifier.weight" in shapes else {}


def _stage_rows(stage: int) -> list[Row]:
    outside, inside = f"{{base}}encoder.stages.{stage}", f"stage_{stage}"
    layer, place = f"{outside}.layers.{{stage{stage}}}", f"{{stage{stage}}}"
    return [
        *norm(f"{outside}.downsampling_layer.0", f"{inside}/downsample_norm"),
        *linear(f"{outside}.downsampling_layer.1", f"{inside}/downsample", PATCHES),
        Row(f"{layer}.dwconv.weight", f"{place}/depthwise_kernel", "p q D -> D 1 p q"),
        Row(f"{layer}.dwconv.bias", f"{place}/depthwise_bias"),
        *norm(f"{layer}.layernorm", f"{place}/norm"),
        *linear(f"{layer}.pwconv1", f"{place}/mlp/up"),
        *linear(f"{layer}.pwconv2", f"{place}/mlp/down"),
        Row(f"{layer}.layer_scale_parameter", f"{place}/layer_scale"),
    ]


def _places(config: ConvNeXtConfig) -> dict[str, dict[int, Place]]:
    depths = config.depths + (0,) * (MOST_STAGES - len(config.depths))
    return {
        f"stage{stage}": {layer: Place(f"stage_{stage}/layers", layer) for layer in range(depth)}
        for stage, depth in enumerate(depths)
    }


convnext = Family(
    "convnext",
    "ConvNextModel",
    ConvNeXtConfig,
    (
        _stages(),
        same("patch_size", "patch_size"),
        named("hidden_act", "activation", ACTIVATIONS, "gelu"),
        same("layer_scale_init_value", "layer_scale", 1e-6),
        same("layer_norm_eps", "final_norm_eps", 1e-12),
        fixed(norm_eps=1e-6),
        only("num_channels", 3),
        written(_head),
    ),
    (
        *linear("{base}embeddings.patch_embeddings", "patch", PATCHES),
        *norm("{base}embeddings.layernorm", "patch_norm"),
        *(row for stage in range(MOST_STAGES) for row in _stage_rows(stage)),
        *norm("{base}layernorm", "final_norm"),
        *linear("classifier", "projection"),
    ),
    _places,
    ConvNeXt,
    lambda config: (jax.ShapeDtypeStruct((1, config.stride, config.stride, 3), jnp.float32),),
    # What the reference takes where config.json does not say.
    defaults={"depths": (3, 3, 9, 3), "hidden_sizes": (96, 192, 384, 768), "num_stages": 4, "patch_size": 4},
    spellings=({"base": "convnext."}, {}),
    detect=_detect,
    not_exported=("remat", "projection"),
)
