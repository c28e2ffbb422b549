"""Flamingo (Alayrac et al. 2022): a vision transformer, a Perceiver resampler, and a decoder that looks at pictures
through gated cross-attention. Interleaved images and text go in as packed rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int, UInt8
from mmjax.core.batch import Batch
from mmjax.layers.linear import Linear
from mmjax.models.connectors.resampler import Resampler, ResamplerConfig
from mmjax.models.decoders.cache import DecoderCache, SharedPrefix
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder, DecoderOutput, Media
from mmjax.models.encoders.vit import ViT, ViTConfig
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.ops.images import normalize_images
from mmjax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class FlamingoConfig:
    """The parts of a Flamingo.

    resampler: None: the text looks at the encoder's features themselves.
    project_media: a linear map from the resampler's width to the decoder's before the cross-attention.
    image_mean, image_std: per channel, of pixel values in [0, 1].
    image_token, chunk_end: ids of the tokens that stand for an image and that end the text about it, for a checkpoint
      that names them.
    """

    vision: ViTConfig
    resampler: ResamplerConfig | None
    decoder: DecoderConfig
    cross: GatedCrossAttentionConfig
    project_media: bool = False
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_token: int | None = None
    chunk_end: int | None = None


# The parts that are counted and named apart: name -> pattern of parameter paths.
PARTS = {
    "vision": r"vision/.*",
    "resampler": r"resampler/.*",
    "media_projection": r"media_projection/.*",
    "cross_attention": r"decoder/(layers|tail)/cross_\d+/.*",
    "language": r"decoder/.*",
}


class Flamingo(nn.Module):
    """Packed rows of interleaved images and text to hidden states."""

    config: FlamingoConfig
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        self.vision = ViT(config.vision, self.dtype)
        if config.resampler is not None:
            self.resampler = Resampler(config.resampler, self.dtype)
        self.decoder = Decoder(config.decoder, config.cross, self.dtype)
        if config.project_media:
            self.media_projection = Linear((config.decoder.width,), ("embed",), (None,), dtype=self.dtype, rows="image")

    def __call__(self, batch: Batch, **further: Any) -> DecoderOutput:
        """Hidden states of every position of the batch; further arguments as `decode`'s."""
        media = self.encode(batch.images, batch.image_mask)
        return self.decode(batch.tokens, batch.positions, batch.segment_ids, media, batch.media_index, **further)

    def encode(self, images: UInt8[Array, "B N *F h w 3"], image_mask: Bool[Array, "B N *F"]) -> Media:
        """Looks at every picture once: `[B, N * R, D]`, of which the first R belong to image 1, and so on."""
        # Spread over all devices while they are bytes: the pictures of a long row too.
        pictures = constrain(images.reshape(-1, *images.shape[-3:]), "image", None, None, None)
        normalized = normalize_images(pictures, self.config.image_mean, self.config.image_std, self.dtype)
        return self._encode(normalized, image_mask)

    def encode_normalized(self, images: Float[Array, "B N *F h w 3"], image_mask: Bool[Array, "B N *F"]) -> Media:
        """The same for pictures that are normalised already."""
        return self._encode(images.reshape(-1, *images.shape[-3:]), image_mask)

    def _encode(self, pictures, image_mask) -> Media:
        image_mask = image_mask.reshape(*image_mask.shape[:2], -1)
        batch, count, frames = image_mask.shape
        features = self.vision(pictures).features
        if self.config.resampler is not None:
            features = features.reshape(batch * count, frames, *features.shape[1:])
            features = self.resampler(features, image_mask.reshape(batch * count, frames))
            image_mask = jnp.any(image_mask, axis=-1, keepdims=True)
        if self.config.project_media:
            features = self.media_projection(features)
        numbers = jnp.arange(1, count + 1, dtype=jnp.int32)[None, :, None] * image_mask.astype(jnp.int32)
        segments = jnp.repeat(numbers.reshape(batch, -1), features.shape[1], axis=1)
        return Media(features.reshape(batch, -1, features.shape[-1]), segments)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        media: Media,
        media_index: Int[Array, "B T"] | None = None,
        cache: DecoderCache | None = None,
        write_index: Int[Array, "B T"] | None = None,
        *,
        media_allowed: Bool[Array, "B T S"] | None = None,
        query_segments: Int[Array, "B T"] | None = None,
        shared: SharedPrefix | None = None,
    ) -> DecoderOutput:
        """The text, given what `encode` saw (or a cache that has its keys and values).

        Which images a token looks at is said by `media_index` or `media_allowed`; see `Decoder`.
        """
        return self.decoder(
            tokens,
            positions,
            segment_ids,
            media=media,
            media_index=media_index,
            media_allowed=media_allowed,
            query_segments=query_segments,
            cache=cache,
            write_index=write_index,
            shared=shared,
        )


def last_images(tokens: Int[Array, "B T"], image_token: int) -> Int[Array, "B T"]:
    """The number of the image that each token looks at: the last that stands at or before it, 0 where there is none.

    image_token=9    tokens [[5, 9, 6, 7, 9, 9, 8]]  ->  [[0, 1, 1, 1, 2, 3, 3]]
    """
    return jnp.cumsum(tokens == image_token, axis=1, dtype=jnp.int32)
