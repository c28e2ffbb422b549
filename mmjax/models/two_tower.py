"""Two towers, one for pictures and one for texts, that meet in one space (CLIP, Radford et al. 2021; SigLIP, Zhai et
al. 2023)."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.batch import Batch
from mmjax.core.errors import ConfigError
from mmjax.models.encoders.text import TextEncoder, TextEncoderConfig, TextEncoderOutput
from mmjax.models.encoders.vit import ViT, ViTConfig, ViTOutput
from mmjax.ops.images import normalize_images


@dataclasses.dataclass(frozen=True)
class TwoTowerConfig:
    """Both towers must end in vectors of one width.

    scale_init: start of the logarithm of the factor on the cosines.
    bias_init: start of a bias on the scaled cosines (SigLIP); None: no bias.
    image_mean, image_std: per channel, of pixel values in [0, 1].
    """

    vision: ViTConfig
    text: TextEncoderConfig
    scale_init: float = 2.6592
    bias_init: float | None = None
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@flax.struct.dataclass
class TwoTowerOutput:
    """`logits[i, t]` of picture i and text t; the embeddings have unit length."""

    logits: Float[Array, "N B"]
    image_embeddings: Float[Array, "N E"]
    text_embeddings: Float[Array, "B E"]
    image: ViTOutput
    text: TextEncoderOutput


@flax.struct.dataclass
class Pairs:
    """Embeddings of unit length, in float32, of each row's picture and text; a logit is scale x cosine + bias."""

    image_embeddings: Float[Array, "B E"]
    text_embeddings: Float[Array, "B E"]
    scale: Float[Array, ""]
    bias: Float[Array, ""]


# The parts that are counted and named apart: name -> pattern of parameter paths.
PARTS = {"vision": r"vision/.*", "text": r"text/.*"}


class TwoTower(nn.Module):
    """Pictures and texts to the logits of all pairs."""

    config: TwoTowerConfig
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        self.vision = ViT(config.vision, self.dtype)
        self.text = TextEncoder(config.text, self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(config.scale_init), (1,), jnp.float32)
        if config.bias_init is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(config.bias_init), (1,), jnp.float32)

    def __call__(
        self,
        images: Float[Array, "N h w 3"],
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        query_segments: Int[Array, "B T"] | None = None,
        present: Bool[Array, "N P"] | None = None,
    ) -> TwoTowerOutput:
        """Pictures are normalised already, and padding but for their patches that are `present`; segment 0 is padding
        too."""
        image = self.encode_images(images, present)
        text = self.encode_text(tokens, positions, segment_ids, query_segments)
        image_embeddings, text_embeddings = unit_length(vector_of(image)), unit_length(vector_of(text))
        cosines = jnp.einsum("NE,BE->NB", image_embeddings, text_embeddings, preferred_element_type=jnp.float32)
        logits = cosines * jnp.exp(self.logit_scale)[None]
        if self.config.bias_init is not None:
            logits = logits + self.logit_bias[None]
        return TwoTowerOutput(logits, image_embeddings, text_embeddings, image, text)

    def embed(self, batch: Batch) -> Pairs:
        """The two vectors of each row: of its first picture, and of its text. Rows are not packed.

        A text whose vector is taken from its last place is read with its padding, as SigLIP does.

        Raises:
          ConfigError: rows of several pictures, or videos.
        """
        if batch.images.ndim != 5 or batch.images.shape[1] != 1:
            raise ConfigError("two towers read rows of one picture and one text: set data.images and data.frames to 1")
        config = self.config
        images = normalize_images(batch.images[:, 0], config.image_mean, config.image_std, self.dtype)
        positions, segments = batch.positions, batch.segment_ids
        if config.text.pool == "last":
            segments = jnp.ones_like(segments)
            positions = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32)[None], segments.shape)
        bias = jnp.float32(0) if config.bias_init is None else self.logit_bias[0]
        return Pairs(
            unit_length(vector_of(self.encode_images(images))),
            unit_length(vector_of(self.encode_text(batch.tokens, positions, segments))),
            jnp.exp(self.logit_scale[0]),
            bias,
        )

    def encode_images(self, images: Float[Array, "N h w 3"], present: Bool[Array, "N P"] | None = None) -> ViTOutput:
        """The pictures alone; `present` as `ViT` has it."""
        return self.vision(images, present=present)

    def encode_text(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        query_segments: Int[Array, "B T"] | None = None,
    ) -> TextEncoderOutput:
        """The texts alone."""
        return self.text(tokens, positions, segment_ids, query_segments=query_segments)


def vector_of(output: ViTOutput | TextEncoderOutput) -> Float[Array, "B E"]:
    """A tower's one vector: projected, where it has a projection."""
    return output.pooled if output.projected is None else output.projected


def unit_length(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """`x` divided by its Euclidean length, in float32."""
    wide = x.astype(jnp.float32)
    return wide / jnp.linalg.norm(wide, axis=-1, keepdims=True)
