"""ConvNeXt (Liu et al. 2022): a convolutional picture encoder in stages, each of half the resolution of the last."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.core.errors import ConfigError, InputError
from mmjax.layers.linear import Linear, Norm, fan_in_normal
from mmjax.layers.mlp import MLP, Activation
from mmjax.layers.parameters import parameter
from mmjax.layers.remat import Remat, remat
from mmjax.parallel.sharding import constrain, on_each_device

# Both are the same in every published size.
KERNEL_SIZE = 7
MLP_RATIO = 4


@dataclasses.dataclass(frozen=True)
class ConvNeXtConfig:
    """The specification of a ConvNeXt.

    depths, widths: blocks and channels of each stage.
    patch_size: side of the patches that the first stage sees; every later stage halves the resolution.
    layer_scale: start of the per-channel factors on each block's output; 0: none.
    norm_eps: of every norm but the last.
    final_norm_eps: of the norm of the pooled vector.
    projection: width of a linear map, with bias, of the pooled vector (a classifier's number of classes); 0: none.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    patch_size: int = 4
    activation: Activation = "gelu"
    layer_scale: float = 1e-6
    norm_eps: float = 1e-6
    final_norm_eps: float = 1e-6
    projection: int = 0
    remat: Remat = "none"

    def __post_init__(self):
        if not self.depths or len(self.depths) != len(self.widths):
            raise ConfigError(
                f"depths ({self.depths}) and widths ({self.widths}) must name the same number of stages, one or more"
            )
        if min(self.depths) < 1 or min(self.widths) < 1 or self.patch_size < 1:
            raise ConfigError(
                f"depths ({self.depths}), widths ({self.widths}) and patch_size ({self.patch_size}) must be positive"
            )
        if self.layer_scale < 0:
            raise ConfigError(f"layer_scale must be positive, or 0 for none, not {self.layer_scale}")

    @property
    def stride(self) -> int:
        """Pixels along one side of a place of the last stage, which is also the smallest side of a picture."""
        return self.patch_size * 2 ** (len(self.depths) - 1)


@flax.struct.dataclass
class ConvNeXtOutput:
    """`last_hidden_state` of the places of the last stage, their mean after the final norm as `pooled`, also
    `projected` where the model has a projection.

    `hidden` are the patches that the first stage sees and then the output of every stage, each of its own resolution
    and width.
    """

    last_hidden_state: Float[Array, "B h w D"]
    pooled: Float[Array, "B D"]
    projected: Float[Array, "B E"] | None
    hidden: tuple[Float[Array, "B _h _w _D"], ...]


def _depthwise_convolution(x, kernel):
    """Each channel of `x` [B,h,w,D] with its own filter of `kernel` [p,q,D]; zeros stand outside the picture."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm and feed-forward, added to the input with optional LayerScale."""

    config: ConvNeXtConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> tuple[Float[Array, "B h w D"], None]:
        config = self.config
        batch, height, width, channels = x.shape
        y = self._depthwise(x)
        y = Norm("layer", config.norm_eps, name="norm")(y.reshape(batch, height * width, channels))
        y = MLP(MLP_RATIO * channels, config.activation, False, True, self.dtype, rows="image", name="mlp")(y)
        if config.layer_scale:
            init = nn.initializers.constant(config.layer_scale)
            y = y * parameter(self, "layer_scale", init, (channels,), ("embed",), y.dtype)[None, None, :]
        return constrain(x + y.reshape(x.shape), "image", "patch", "patch", "embed"), None

    def _depthwise(self, x):
        channels = x.shape[-1]
        shape = (KERNEL_SIZE, KERNEL_SIZE, channels)
        axes = (None, None, "embed")
        kernel = parameter(self, "depthwise_kernel", fan_in_normal(1.0, 2), shape, axes, self.dtype)
        # Left to XLA's partitioner (of jax 0.10), the kernel's gradient is summed over idle mesh axes too.
        y = on_each_device(_depthwise_convolution, (("image", None, None, None), (None, None, None)), x, kernel)
        bias = parameter(self, "depthwise_bias", nn.initializers.zeros_init(), (channels,), ("embed",), self.dtype)
        return y + bias[None, None, None, :]


def patches(x: Float[Array, "B h w C"], size: int) -> Float[Array, "B _h _w size size C"]:
    """The squares of `size` that `x` is made of; what is left over at the bottom and the right is cut off.

    They do not overlap, so the convolution over them is a matrix product, which is faster on every backend.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    seen = x[:, : rows * size, : columns * size]
    return seen.reshape(batch, rows, size, columns, size, channels).swapaxes(2, 3)


class ConvNeXtStage(nn.Module):
    """Halves the resolution, but for the first stage, and applies the stage's blocks."""

    config: ConvNeXtConfig
    stage: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B _h _w D"]:
        config = self.config
        if self.stage:
            x = Norm("layer", config.norm_eps, name="downsample_norm")(x)
            merge = Linear(
                (config.widths[self.stage],), (None,) * 3, ("embed",), True, self.dtype, rows="image", name="downsample"
            )
            x = merge(patches(x, 2))
        x = constrain(x, "image", "patch", "patch", "embed")
        block = remat(ConvNeXtBlock, config.remat)
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=config.depths[self.stage],
            metadata_params={nn.PARTITION_NAME: "layers"},
            check_constancy_invariants=False,  # traced once; there is no variable that it would check
        )
        return layers(config, self.dtype, name="layers")(x)[0]


class ConvNeXt(nn.Module):
    """Pictures of any size, already normalised, to features of their places at several resolutions."""

    config: ConvNeXtConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B h w 3"]) -> ConvNeXtOutput:
        """Features of the pictures; pixels that do not fill a place of some stage are not seen by it.

        Raises:
          InputError: the picture is smaller than one place of the last stage.
        """
        config = self.config
        _, height, width, _ = images.shape
        if min(height, width) < config.stride:
            raise InputError(
                f"a picture of {height}x{width} is too small for a patch_size of {config.patch_size} and "
                f"{len(config.depths)} stages; resize or pad it to at least {config.stride}x{config.stride}"
            )
        embed = Linear((config.widths[0],), (None,) * 3, ("embed",), True, self.dtype, rows="image", name="patch")
        x = embed(patches(images, config.patch_size))
        hidden = [Norm("layer", config.norm_eps, name="patch_norm")(x)]
        for stage in range(len(config.depths)):
            hidden.append(ConvNeXtStage(config, stage, self.dtype, name=f"stage_{stage}")(hidden[-1]))
        pooled = Norm("layer", config.final_norm_eps, name="final_norm")(jnp.mean(hidden[-1], axis=(1, 2)))
        projected = None
        if config.projection:
            project = Linear(
                (config.projection,), ("embed",), (None,), True, self.dtype, rows="image", name="projection"
            )
            projected = project(pooled)
        return ConvNeXtOutput(hidden[-1], pooled, projected, tuple(hidden))


def _size(width: int, third_stage: int) -> ConvNeXtConfig:
    """Widths double from stage to stage; sizes differ in depth in the third one only."""
    return ConvNeXtConfig(depths=(3, 3, third_stage, 3), widths=tuple(width * 2**stage for stage in range(4)))


# The variants of the paper's section 3.
SIZES: dict[str, ConvNeXtConfig] = {
    "ConvNeXt-T": _size(96, 9),
    "ConvNeXt-S": _size(96, 27),
    "ConvNeXt-B": _size(128, 27),
    "ConvNeXt-L": _size(192, 27),
    "ConvNeXt-XL": _size(256, 27),
}
