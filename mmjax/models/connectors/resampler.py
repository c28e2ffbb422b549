"""The Perceiver resampler of Flamingo (Alayrac et al. 2022, figure 5): any number of features -> a few latents."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float
from mmjax.core.errors import ConfigError, InputError
from mmjax.layers.attention import Attention, AttentionConfig, KeyValueProjection
from mmjax.layers.linear import Norm
from mmjax.layers.mlp import MLP, Activation
from mmjax.layers.parameters import parameter
from mmjax.layers.remat import Remat, remat
from mmjax.ops.masks import AttentionMask
from mmjax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class ResamplerConfig:
    """`latents` queries of `width` that read the features through `layers` layers.

    shared_kv: features and latents share the key and value weights, so they must have the same width
      (OpenFlamingo, IDEFICS). Otherwise the features have their own, from whatever width they come in.
    qk_norm: a layer norm of each head's queries and keys (IDEFICS).
    max_frames: rows of the table of temporal embeddings, 0 for none. One frame gets no embedding.
    """

    width: int
    layers: int
    heads: int
    head_width: int
    latents: int
    mlp_width: int
    activation: Activation = "squared_relu"
    shared_kv: bool = False
    qk_norm: bool = False
    max_frames: int = 0
    norm_eps: float = 1e-5
    remat: Remat = "none"


class ResamplerLayer(nn.Module):
    """Latents attend to features and latents together, then a feed-forward; both residual."""

    config: ResamplerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B R D"], features: Float[Array, "B S E"], mask: AttentionMask
    ) -> tuple[Float[Array, "B R D"], None]:
        config = self.config
        attention = AttentionConfig(
            config.heads,
            config.head_width,
            qk_norm="head" if config.qk_norm else "none",
            qk_norm_kind="layer",
            qk_norm_bias=True,
            norm_eps=config.norm_eps,
        )
        features = Norm("layer", config.norm_eps, name="media_norm")(features)
        y = Norm("layer", config.norm_eps, name="attention_norm")(x)
        attend = Attention(attention, dtype=self.dtype, rows="image", name="attention")
        if config.shared_kv:
            both = jnp.concatenate([features, y], axis=1)
            y, _ = attend(y, both, mask=mask)
        else:
            extra = KeyValueProjection(attention, self.dtype, "image", name="media")(features)
            y, _ = attend(y, y, mask=mask, extra=extra)
        x = x + y
        y = Norm("layer", config.norm_eps, name="mlp_norm")(x)
        x = x + MLP(config.mlp_width, config.activation, dtype=self.dtype, rows="image", name="mlp")(y)
        return constrain(x, "image", "latent", "embed"), None


class Resampler(nn.Module):
    """Features of one image or of the frames of a video -> `latents` vectors."""

    config: ResamplerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "B F P E"], frame_mask: Bool[Array, "B F"]) -> Float[Array, "B R D"]:
        """Frames that the mask leaves out are not seen; where it leaves out all, the latents see themselves only.

        Raises:
          InputError: more frames than there are temporal embeddings.
        """
        config = self.config
        batch, frames, patches, width = features.shape
        if config.shared_kv and width != config.width:
            raise ConfigError(
                f"a resampler with shared_kv needs features of its own width {config.width}, but they have {width}; "
                "set shared_kv to False"
            )
        features = features.astype(self.dtype)
        if config.max_frames:
            init, shape = nn.initializers.normal(0.02), (config.max_frames, width)
            table = parameter(self, "temporal_embedding", init, shape, (None, "embed"), self.dtype)
            if frames > config.max_frames:
                raise InputError(f"{frames} frames were given but the resampler has embeddings for {config.max_frames}")
            if frames > 1:
                features = features + table[None, :frames, None, :]
        features = features.reshape(batch, frames * patches, width)
        init, shape = nn.initializers.normal(0.02), (config.latents, config.width)
        latents = parameter(self, "latents", init, shape, ("latent", "embed"), self.dtype)
        x = jnp.broadcast_to(latents[None], (batch, *latents.shape))
        seen = jnp.repeat(frame_mask.astype(jnp.int32), patches, axis=1)
        ones = jnp.ones((batch, config.latents), jnp.int32)
        mask = AttentionMask(query_segments=ones, key_segments=jnp.concatenate([seen, ones], axis=1), causal=False)
        layers = nn.scan(
            remat(ResamplerLayer, config.remat),
            variable_axes={"params": 0, "attention": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=config.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
            check_constancy_invariants=False,  # traced once; there is no variable that it would check
        )
        x, _ = layers(config, self.dtype, name="layers")(x, features, mask)
        return Norm("layer", config.norm_eps, name="final_norm")(x)
