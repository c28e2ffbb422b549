"""Picture encoders of transformers with a decoder that attends to them (VisionEncoderDecoderModel)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmjax.interop.families.decoders import gpt2_with_encoder
from mmjax.interop.families.rows import linear
from mmjax.interop.families.vision import dinov2, dinov2_with_registers, vit
from mmjax.interop.family import Family, Part, token_inputs
from mmjax.interop.settings import only, same
from mmjax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig


def _inputs(config: EncoderDecoderConfig) -> tuple[jax.ShapeDtypeStruct, ...]:
    side = config.vision.image_size
    return (
        jax.ShapeDtypeStruct((1, 1, side, side, 3), jnp.float32),
        *token_inputs(4),
    )


vision_encoder_decoder = Family(
    "vision-encoder-decoder",
    "VisionEncoderDecoderModel",
    EncoderDecoderConfig,
    (
        same("decoder_start_token_id", "start_token"),
        same("pad_token_id", "pad_token"),
        only("decoder.cross_attention_hidden_size", None),
    ),
    tuple(linear("enc_to_dec_proj", "media_projection")),
    lambda config: {},
    EncoderDecoder,
    _inputs,
    parts=(
        Part("vision", "encoder", (vit, dinov2, dinov2_with_registers)),
        Part("decoder", "decoder", (gpt2_with_encoder,)),
    ),
    spellings=({"vision.base": "encoder.", "decoder.base": "decoder.transformer.", "decoder.head": "decoder."},),
    writes=True,
)
