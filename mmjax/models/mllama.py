"""Llama 3.2 Vision (Mllama; Dubey et al. 2024, section 7): pictures in tiles, and a language model that looks at them
through gated cross-attention."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.layers.linear import Linear
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder, DecoderOutput, Media
from mmjax.models.encoders.tiled_vit import TiledViT, TiledViTConfig
from mmjax.models.fusion.gated import GatedCrossAttentionConfig


@dataclasses.dataclass(frozen=True)
class MllamaConfig:
    """The parts of the model. image_token: the token that stands in the text where a picture does."""

    vision: TiledViTConfig
    decoder: DecoderConfig
    cross: GatedCrossAttentionConfig
    image_token: int


class Mllama(nn.Module):
    """Pictures in tiles, already normalised, and tokens to hidden states."""

    config: MllamaConfig
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        self.vision = TiledViT(config.vision, self.dtype)
        self.media_projection = Linear((config.decoder.width,), ("embed",), (None,), True, self.dtype, rows="image")
        self.decoder = Decoder(config.decoder, config.cross, self.dtype)

    def __call__(
        self,
        tiles: Float[Array, "B N M h w 3"],
        tile_mask: Bool[Array, "B N M"],
        aspect_ratios: Int[Array, "B N"],
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        media_index: Int[Array, "B T"],
    ) -> DecoderOutput:
        """Rows whose tokens each look at one picture of the row (`media_index`, 0: none); segment 0 is padding."""
        media = self.encode(tiles, tile_mask, aspect_ratios)
        return self.decode(tokens, positions, segment_ids, media=media, media_index=media_index)

    def encode(
        self,
        tiles: Float[Array, "B N M h w 3"],
        tile_mask: Bool[Array, "B N M"],
        aspect_ratios: Int[Array, "B N"],
    ) -> Media:
        """Looks at every tile of every picture once: `[B, N * M * P, D]`; a tile that is not there is of no picture."""
        batch, count, most = tile_mask.shape
        features = self.vision(
            tiles.reshape(batch * count, *tiles.shape[2:]),
            tile_mask.reshape(batch * count, most),
            aspect_ratios.reshape(batch * count),
        )
        features = self.media_projection(features).reshape(batch, -1, self.config.decoder.width)
        numbers = jnp.arange(1, count + 1, dtype=jnp.int32)[None, :, None] * tile_mask.astype(jnp.int32)
        return Media(features, jnp.repeat(numbers.reshape(batch, -1), self.config.vision.tokens, axis=1))

    def decode(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        **further: Any,
    ) -> DecoderOutput:
        """The text, given what `encode` saw, or a cache that has its keys and values; the rest as `Decoder`'s."""
        return self.decoder(tokens, positions, segment_ids, **further)
