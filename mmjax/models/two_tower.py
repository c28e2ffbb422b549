"""Two towers, one for pictures and one for texts, that meet in one space (CLIP, Radford et al. 2021; SigLIP, Zhai et
al. 2023)."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.models.encoders.text import TextEncoder, TextEncoderConfig, TextEncoderOutput
from mmjax.models.encoders.vit import ViT, ViTConfig, ViTOutput


@dataclasses.dataclass(frozen=True)
class TwoTowerConfig:
    """Both towers must end in vectors of one width.

    scale_init: start of the logarithm of the factor on the cosines.
    bias_init: start of a bias on the scaled cosines (SigLIP); None: no bias.
    """

    vision: ViTConfig
    text: TextEncoderConfig
    scale_init: float = 2.6592
    bias_init: float | None = None


@flax.struct.dataclass
class TwoTowerOutput:
    """`logits[i, t]` of picture i and text t; the embeddings have unit length."""

    logits: Float[Array, "N B"]
    image_embeddings: Float[Array, "N E"]
    text_embeddings: Float[Array, "B E"]
    image: ViTOutput
    text: TextEncoderOutput


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
