"""The vision transformer (Dosovitskiy et al. 2021) and its relatives: CLIP, SigLIP, DINOv2, as one module."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float
from mmjax.core.errors import ConfigError, InputError
from mmjax.layers.attention import Attention, AttentionConfig
from mmjax.layers.linear import Linear, Norm, fan_in_normal
from mmjax.layers.mlp import MLP, Activation
from mmjax.layers.parameters import parameter
from mmjax.layers.remat import Remat, remat
from mmjax.models.encoders.positions import (
    Resize,
    bilinear_positions,
    fraction_positions,
    resize_positions,
    sincos_positions,
)
from mmjax.ops.masks import AttentionMask
from mmjax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The specification of a vision transformer.

    image_size: the (square) size that the learned positions are for. Where it is no multiple of patch_size (SigLIP: 384
      and 14), the pixels left over at the right and the bottom are not seen; pictures of other sizes must divide.
    position_resize: how learned positions are brought to other sizes; "fraction": each patch takes the one at the same
      fraction of the picture (Idefics-3). This and "bilinear_antialias" go by the part of it that is no padding.
    stem: "patch" is one convolution of patch_size; "convolution" is `stem_layers` 3x3 convolutions of stride 2 (early
      convolutions, Xiao et al. 2021), whose strides multiply to patch_size.
    pre_norm_embeddings: a norm between the embeddings and the first layer (CLIP).
    norm_position: "pre" or "post" the sublayers.
    attention_bias: False leaves the attention without the biases that `bias` gives the other maps too.
    qkv_bias: False leaves only its queries, keys and values without them (BLIP-2).
    layer_scale: start of the per-channel factors on each sublayer's output (DINOv2); 0: none.
    sublayer_gate: start of a number whose tanh multiplies each sublayer's output (Mllama); None: no gate.
    mask_token: a learned vector that stands in for masked patches (BEiT, iBOT).
    registers: extra learned tokens after the class token (Darcet et al. 2024), without positions.
    pool: "class" token, "mean" of the patches, "map" (attention by one learned query, SigLIP), or "none".
    pool_norm: the final norm, once more, on the pooled class token (BLIP-2).
    projection: width of a linear map of the pooled vector (CLIP, or a classifier's number of classes); 0: none.
    feature_layer: which layer's output the features are: -1 the last (after the final norm), -2 the one before; or the
      number of a layer, 0 for the embeddings, and no norm. Several: side by side.
    feature_tokens: whether the features are those of the "patches" alone, or of "all" tokens.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    stem: Literal["patch", "convolution"] = "patch"
    patch_bias: bool = True
    class_token: bool = False
    mask_token: bool = False
    registers: int = 0
    positions: Literal["learned", "sincos", "none"] = "learned"
    position_resize: Resize = "bicubic"
    class_position: bool = False
    pre_norm_embeddings: bool = False
    norm_position: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-6
    activation: Activation = "gelu"
    mlp_gated: bool = False
    bias: bool = True
    attention_bias: bool = True
    qkv_bias: bool = True
    layer_scale: float = 0.0
    sublayer_gate: float | None = None
    final_norm: bool = True
    pool: Literal["class", "mean", "map", "none"] = "none"
    pool_norm: bool = False
    projection: int = 0
    projection_bias: bool = False
    projection_activation: Literal["none", "tanh"] = "none"
    feature_layer: int | tuple[int, ...] = -1
    feature_tokens: Literal["patches", "all"] = "patches"
    remat: Remat = "none"

    def __post_init__(self):
        if self.image_size < self.patch_size:
            raise ConfigError(f"image_size ({self.image_size}) must hold at least one patch of {self.patch_size}")
        if self.width % self.heads:
            raise ConfigError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.pool == "class" and not self.class_token:
            raise ConfigError("pool 'class' needs class_token True")
        if self.pool_norm and (self.pool != "class" or not self.final_norm):
            raise ConfigError("pool_norm is the final norm once more; it needs final_norm True and pool 'class'")
        if self.projection and self.pool == "none":
            raise ConfigError("projection maps the pooled vector; set pool to 'class', 'mean' or 'map'")
        if self.class_position and not self.class_token:
            raise ConfigError("class_position needs class_token True")
        if self.stem == "convolution" and (self.patch_size < 2 or self.patch_size & (self.patch_size - 1)):
            raise ConfigError(f"a convolution stem needs a patch_size that is a power of two, not {self.patch_size}")
        if not self.feature_layers or not all(-self.layers <= layer <= self.layers for layer in self.feature_layers):
            raise ConfigError(f"feature_layer must be from -{self.layers} to {self.layers}, not {self.feature_layer}")

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """`feature_layer` as a tuple."""
        return (self.feature_layer,) if isinstance(self.feature_layer, int) else self.feature_layer

    @property
    def grid(self) -> int:
        """Patches along one side at `image_size`."""
        return self.image_size // self.patch_size


@flax.struct.dataclass
class ViTOutput:
    """`features` at `feature_layer` (of the patches, without class token and registers, unless all are asked for), and
    the `pooled` vector, also `projected` where the model has a projection.

    `tokens` are all of the last layer's outputs in order: class token, registers, patches. `hidden` are the outputs of
    every layer, the embeddings first.
    """

    features: Float[Array, "B P D"]
    pooled: Float[Array, "B D"] | None
    projected: Float[Array, "B E"] | None
    tokens: Float[Array, "B S D"]
    hidden: Float[Array, "L B S D"]


class ViTBlock(nn.Module):
    """Self-attention (bidirectional, but for a mask) and feed-forward, with optional LayerScale and gates."""

    config: ViTConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], mask: AttentionMask | None = None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B S D"]]:
        config = self.config
        bias = config.bias and config.attention_bias
        qkv_bias = bias and config.qkv_bias
        heads = AttentionConfig(config.heads, config.width // config.heads, qkv_bias=qkv_bias, out_bias=bias)
        attend = Attention(heads, dtype=self.dtype, rows="image", name="attention")
        hidden = (config.mlp_width, config.activation, config.mlp_gated, config.bias, self.dtype)
        mlp = MLP(*hidden, rows="image", name="mlp")

        def attention(y):
            return attend(y, y, mask=AttentionMask(causal=False) if mask is None else mask)[0]

        for name, sublayer in (("attention", attention), ("mlp", mlp)):
            norm = Norm("layer", config.norm_eps, name=f"{name}_norm")
            if config.norm_position == "pre":
                x = x + self._scaled(name, sublayer(norm(x)))
            else:
                x = norm(x + self._scaled(name, sublayer(x)))
        x = constrain(x, "image", "patch", "embed")
        return x, x

    def _scaled(self, name, y):
        config = self.config
        if config.layer_scale:
            init = nn.initializers.constant(config.layer_scale)
            y = y * parameter(self, f"{name}_scale", init, y.shape[-1:], ("embed",), y.dtype)[None, None, :]
        if config.sublayer_gate is not None:
            init = nn.initializers.constant(config.sublayer_gate)
            y = y * jnp.tanh(parameter(self, f"{name}_gate", init, (), ())).astype(y.dtype)
        return y


class AttentionPooling(nn.Module):
    """Multi-head attention pooling by one learned query, then a residual feed-forward (Zhai et al. 2022; SigLIP)."""

    config: ViTConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], mask: AttentionMask | None = None) -> Float[Array, "B D"]:
        config = self.config
        mask = AttentionMask(causal=False) if mask is None else mask
        heads = AttentionConfig(config.heads, config.width // config.heads, qkv_bias=True, out_bias=True)
        probe = parameter(self, "probe", nn.initializers.normal(0.02), (1, config.width), (None, "embed"), self.dtype)
        probe = jnp.broadcast_to(probe[None], (x.shape[0], 1, config.width))
        y, _ = Attention(heads, dtype=self.dtype, rows="image", name="attention")(probe, x, mask=mask)
        z = Norm("layer", config.norm_eps, name="mlp_norm")(y)
        y = y + MLP(config.mlp_width, config.activation, False, True, self.dtype, rows="image", name="mlp")(z)
        return y[:, 0]


class ViT(nn.Module):
    """Pictures, already normalised, to features of their patches."""

    config: ViTConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B h w 3"],
        masked: Bool[Array, "B P"] | None = None,
        present: Bool[Array, "B P"] | None = None,
    ) -> ViTOutput:
        """Features of the pictures; the mask token stands where `masked`.

        present: the patches that are picture, a rectangle at the top left; the others are padding, which nothing sees.

        Raises:
          InputError: the picture's sides are not multiples of the patch, or there is no mask token.
        """
        config = self.config
        batch, height, width, _ = images.shape
        own_size = height == width == config.image_size
        if not own_size and (height % config.patch_size or width % config.patch_size):
            raise InputError(
                f"a picture of {height}x{width} does not divide into patches of {config.patch_size}; resize or pad it"
            )
        rows, columns = height // config.patch_size, width // config.patch_size
        seen = images[:, : rows * config.patch_size, : columns * config.patch_size]
        x = self._stem(seen.astype(self.dtype)).reshape(batch, rows * columns, config.width)
        x = self._with_positions(self._masked(x, masked), rows, columns, present)
        before = int(config.class_token) + config.registers
        mask = None
        if present is not None:
            mask = AttentionMask(
                key_segments=jnp.pad(present.astype(jnp.int32), ((0, 0), (before, 0)), constant_values=1)
            )
        if config.pre_norm_embeddings:
            x = Norm("layer", config.norm_eps, name="embedding_norm")(x)
        x = constrain(x, "image", "patch", "embed")
        x, chosen, hidden = self._layers(x, mask)
        final_norm = Norm("layer", config.norm_eps, name="final_norm") if config.final_norm else None
        if final_norm is not None:
            x = final_norm(x)
        features = jnp.concatenate([x if layer == -1 else chosen[layer] for layer in config.feature_layers], axis=-1)
        features = features if config.feature_tokens == "all" else features[:, before:]
        pooled = self._pool(x, before, mask)
        if config.pool_norm:
            pooled = final_norm(pooled)
        return ViTOutput(features, pooled, self._project(pooled), x, hidden)

    def _layers(self, x, mask):
        """The last layer's output, those of the feature layers by number, and all of them.

        The features go along from layer to layer: taken out of all outputs, they would have every one of these kept.
        """
        config = self.config
        numbers = {layer: layer % (config.layers + 1) for layer in config.feature_layers if layer != -1}
        chosen = {layer: x for layer in numbers}

        def step(block, carry, number, mask):
            x, chosen = carry
            x, _ = block(x, mask)
            chosen = {layer: jnp.where(number == numbers[layer], x, kept) for layer, kept in chosen.items()}
            return (x, chosen), x

        layers = nn.scan(
            step,
            variable_axes={"params": 0, "attention": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=config.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
            check_constancy_invariants=False,  # traced once; there is no variable that it would check
        )
        block = remat(ViTBlock, config.remat)(config, self.dtype, name="layers")
        carry, outputs = layers(block, (x, chosen), jnp.arange(1, config.layers + 1), mask)
        return *carry, jnp.concatenate([x[None], outputs], axis=0)

    def _stem(self, x):
        config = self.config
        if config.stem == "patch":
            return self._convolution("patch", x, config.width, config.patch_size, config.patch_size)
        steps = config.patch_size.bit_length() - 1
        for step in range(steps):
            channels = config.width // 2 ** (steps - 1 - step)
            x = self._convolution(f"stem_{step}", x, channels, 3, 2)
            if step < steps - 1:
                x = jax.nn.gelu(x, approximate=True)
        return x

    def _convolution(self, name, x, channels, size, stride):
        shape, axes = (size, size, x.shape[-1], channels), (None, None, None, "embed")
        kernel = parameter(self, f"{name}_kernel", fan_in_normal(1.0, 3), shape, axes, self.dtype)
        if size == stride:
            # Patches do not overlap, so the convolution is a matrix product, which is faster on every backend.
            batch, height, width, depth = x.shape
            x = x.reshape(batch, height // size, size, width // size, size, depth)
            y = jnp.einsum("BhpwqC,pqCD->BhwD", x, kernel)
        else:
            y = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        if self.config.patch_bias:
            bias = parameter(self, f"{name}_bias", nn.initializers.zeros_init(), (channels,), ("embed",), self.dtype)
            y = y + bias[None, None, None, :]
        return y

    def _table(self, name, rows, axes=(None, "embed")):
        return parameter(self, name, nn.initializers.normal(0.02), (rows, self.config.width), axes)

    def _masked(self, x, masked):
        if masked is not None and not self.config.mask_token:
            raise InputError("patches can be masked only where the encoder has a mask token; set mask_token to True")
        if not self.config.mask_token:
            return x
        token = self._table("mask_token", 1).astype(x.dtype)
        return x if masked is None else jnp.where(masked[:, :, None], token[None], x)

    def _with_positions(self, x, rows, columns, present):
        config = self.config
        if config.positions == "learned":
            table = self._table("position_embedding", config.grid**2)
            grid = jnp.ones((1, rows, columns), bool) if present is None else present.reshape(-1, rows, columns)
            if config.position_resize == "fraction":
                positions = table[fraction_positions(grid, config.grid)]
            elif config.position_resize == "bilinear_antialias":
                positions = bilinear_positions(table, grid)
            else:
                positions = resize_positions(table, rows, columns, config.position_resize)[None]
            x = x + positions.astype(x.dtype)
        elif config.positions == "sincos":
            x = x + jnp.asarray(sincos_positions(rows, columns, config.width), x.dtype)[None]
        before = []
        if config.class_token:
            token = self._table("class_token", 1)
            if config.class_position:
                token = token + self._table("class_position", 1)
            before.append(token)
        if config.registers:
            before.append(self._table("registers", config.registers))
        extra = [jnp.broadcast_to(t[None].astype(x.dtype), (x.shape[0], *t.shape)) for t in before]
        return jnp.concatenate([*extra, x], axis=1)

    def _pool(self, x, before, mask):
        config = self.config
        if config.pool == "class":
            return x[:, 0]
        if config.pool == "mean":
            return jnp.mean(
                x[:, before:], axis=1, where=None if mask is None else mask.key_segments[:, before:, None] > 0
            )
        if config.pool == "map":
            return AttentionPooling(config, self.dtype, name="pool")(x, mask)
        return None

    def _project(self, pooled):
        config = self.config
        if not config.projection:
            return None
        project = Linear(
            (config.projection,),
            ("embed",),
            (None,),
            config.projection_bias,
            self.dtype,
            rows="image",
            name="projection",
        )
        y = project(pooled)
        return jnp.tanh(y) if config.projection_activation == "tanh" else y
