"""A picture encoder and a decoder that attends to it in every layer, as in Vaswani et al. 2017 (ViT with GPT-2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import ConfigError
from mmjax.layers.linear import Linear
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder, DecoderOutput, Media
from mmjax.models.encoders.vit import ViT, ViTConfig, ViTOutput


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
    """The parts of the model; where their widths differ, a linear map stands between them.

    start_token: the token that every text starts with before it is written; pad_token: the one after its end.
    """

    vision: ViTConfig
    decoder: DecoderConfig
    start_token: int | None = None
    pad_token: int | None = None

    def __post_init__(self):
        if not self.decoder.encoder_attention:
            raise ConfigError("the decoder cannot look at pictures; set decoder.encoder_attention to True")


class EncoderDecoder(nn.Module):
    """Pictures, already normalised, and tokens to hidden states."""

    config: EncoderDecoderConfig
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        self.vision = ViT(config.vision, self.dtype)
        self.decoder = Decoder(config.decoder, None, self.dtype)
        if config.vision.width != config.decoder.width:
            self.media_projection = Linear((config.decoder.width,), ("embed",), (None,), True, self.dtype)

    def __call__(
        self,
        images: Float[Array, "B N h w 3"],
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        media_index: Int[Array, "B T"],
    ) -> DecoderOutput:
        """Rows whose tokens each look at one picture of the row (`media_index`, 0: none); segment 0 is padding."""
        media, _ = self.encode(images)
        return self.decode(tokens, positions, segment_ids, media=media, media_index=media_index)

    def encode(self, images: Float[Array, "B N h w 3"]) -> tuple[Media, ViTOutput]:
        """Every picture's tokens, the class token among them, side by side; and all that the encoder saw."""
        batch, count = images.shape[:2]
        output = self.vision(images.reshape(batch * count, *images.shape[2:]))
        features = output.tokens
        if self.config.vision.width != self.config.decoder.width:
            features = self.media_projection(features)
        numbers = jnp.arange(1, count + 1, dtype=jnp.int32).repeat(features.shape[1])
        features = features.reshape(batch, -1, features.shape[-1])
        return Media(features, jnp.broadcast_to(numbers[None], features.shape[:2])), output

    def decode(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        **further: Any,
    ) -> DecoderOutput:
        """The text, given what `encode` saw, or a cache that has its keys and values; the rest as `Decoder`'s."""
        return self.decoder(tokens, positions, segment_ids, **further)
