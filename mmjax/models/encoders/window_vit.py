"""The vision transformer of Qwen2.5-VL (Bai et al. 2025, section 2.1): pictures and videos of any size in one row of
patches, most layers with attention in windows, rotary positions of rows and columns."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import ConfigError, InputError
from mmjax.layers.attention import Attention, AttentionConfig
from mmjax.layers.linear import Linear, Norm
from mmjax.layers.mlp import MLP, Activation
from mmjax.layers.remat import Remat, remat
from mmjax.models.decoders.config import DepthPlan, depth_plan
from mmjax.models.encoders.patch_grids import frame_segments, patch_positions, window_segments
from mmjax.ops.masks import AttentionMask
from mmjax.ops.rope import rope_frequencies
from mmjax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class WindowViTConfig:
    """The specification of a vision transformer with windows.

    patch_size, frames: a patch is patch_size x patch_size pixels of `frames` consecutive frames; of a picture, which is
      taken for frames that are all alike.
    window: patches along a side of a window.
    full_layers: layers, counted from 0, in which a patch sees all of its picture or frame, and not its window only.
    merge: patches along a side of the squares that are joined to one feature by what follows.
    tokens_per_second: how many positions of the text a second of video takes up.
    """

    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    window: int
    full_layers: tuple[int, ...]
    merge: int = 2
    frames: int = 2
    channels: int = 3
    tokens_per_second: int = 4
    activation: Activation = "silu"
    norm_eps: float = 1e-6
    rope_base: float = 10_000.0
    remat: Remat = "none"

    def __post_init__(self):
        if self.width % (4 * self.heads):
            raise ConfigError(
                f"width ({self.width}) must be a multiple of 4 * heads ({4 * self.heads}): each head turns pairs of "
                "channels with the row and as many with the column"
            )
        if self.window < 1 or self.window % self.merge:
            raise ConfigError(f"window ({self.window}) must be a multiple of merge ({self.merge})")
        if not all(0 <= layer < self.layers for layer in self.full_layers):
            raise ConfigError(f"full_layers must be from 0 to {self.layers - 1} (layers - 1), not {self.full_layers}")

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        return self.channels * self.frames * self.patch_size**2

    @property
    def cycle(self) -> tuple[bool, ...]:
        """The shortest sequence of layers, True for full ones, that gives all of them when it is repeated."""
        full = [layer in self.full_layers for layer in range(self.layers)]
        lengths = range(1, self.layers + 1)
        length = next(n for n in lengths if all(kind == full[layer % n] for layer, kind in enumerate(full)))
        return tuple(full[:length])

    @property
    def plan(self) -> DepthPlan:
        """How the depth is cut: cycles are scanned, what is left over is a tail."""
        return depth_plan(self.layers, len(self.cycle), None)


@flax.struct.dataclass
class PackedPatches:
    """Patches of several pictures in each row, of which 2x2 (say) that belong to one feature follow one another.

    patches: values of a patch in the order channel, frame, row, column.
    windows, frames: numbers of each patch's window and of its picture or frame, from 1; 0 is padding.
    positions: its row and column.
    """

    patches: Float[Array, "B S C"]
    windows: Int[Array, "B S"]
    frames: Int[Array, "B S"]
    positions: Int[Array, "B S 2"]


def pack_patches(config: WindowViTConfig, patches: Float[Array, "S C"], grids: Int[np.ndarray, "N 3"]) -> PackedPatches:
    """One row (B is 1) of all pictures with these `grids`, (frames, rows, columns) in patches each.

    Raises:
      InputError: patches of another size or number than the config and the grids say, or grids that do not divide.
    """
    layout = (
        window_segments(grids, config.merge, config.window),
        frame_segments(grids),
        patch_positions(grids, config.merge),
    )
    if patches.shape != (len(layout[0]), config.patch_values):
        raise InputError(
            f"patches of grids {np.asarray(grids).tolist()} must be [{len(layout[0])},{config.patch_values}], not "
            f"{list(patches.shape)}"
        )
    return PackedPatches(patches[None], *(jnp.asarray(numbers)[None] for numbers in layout))


@flax.struct.dataclass
class WindowViTOutput:
    """`features` of all patches, in their order."""

    features: Float[Array, "B S D"]


class WindowBlock(nn.Module):
    """Self-attention among the patches that the mask puts together, and a gated feed-forward."""

    config: WindowViTConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], positions: Int[Array, "B S 2"], mask: AttentionMask
    ) -> Float[Array, "B S D"]:
        config = self.config
        head_width = config.width // config.heads
        # Half of the channels turn with the row, half with the column, at the same frequencies.
        frequencies = rope_frequencies(head_width // 2, config.rope_base)
        attend = Attention(
            AttentionConfig(config.heads, head_width, qkv_bias=True, out_bias=True),
            rope_frequencies=np.tile(frequencies, 2),
            rope_sections=(len(frequencies),) * 2,
            dtype=self.dtype,
            rows="image",
            name="attention",
        )
        mlp = MLP(config.mlp_width, config.activation, True, True, self.dtype, rows="image", name="mlp")
        y = Norm("rms", config.norm_eps, name="attention_norm")(x)
        x = x + attend(y, y, mask=mask, positions=positions)[0]
        x = x + mlp(Norm("rms", config.norm_eps, name="mlp_norm")(x))
        return constrain(x, "image", "patch", "embed")


class _Cycle(nn.Module):
    """The first `layers` layers of a cycle."""

    config: WindowViTConfig
    layers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, positions, windows, frames):
        for layer, full in enumerate(self.config.cycle[: self.layers]):
            segments = frames if full else windows
            mask = AttentionMask(query_segments=segments, key_segments=segments)
            x = WindowBlock(self.config, self.dtype, name=f"self_{layer}")(x, positions, mask)
        return x, None


class WindowViT(nn.Module):
    """Patches, already normalised, to features.

    Patches are not brought into an order of windows: who sees whom is said by segments.
    """

    config: WindowViTConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, packed: PackedPatches) -> WindowViTOutput:
        """Features of every patch of every row.

        Raises:
          InputError: patches of another size than the config has.
        """
        config, plan = self.config, self.config.plan
        batch, length, values = packed.patches.shape
        if values != config.patch_values:
            raise InputError(f"a patch must be {config.patch_values} values, not {values}")
        shape = (batch, length, config.channels, config.frames, config.patch_size, config.patch_size)
        patch = Linear((config.width,), (None,) * 4, ("embed",), dtype=self.dtype, rows="image", name="patch")
        x = constrain(patch(packed.patches.reshape(shape)), "image", "patch", "embed")
        where = (packed.positions, packed.windows, packed.frames)
        block = remat(_Cycle, config.remat)
        if plan.superblocks:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0, "attention": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=plan.superblocks,
                metadata_params={nn.PARTITION_NAME: "layers"},
                check_constancy_invariants=False,  # traced once; there is no variable that it would check
            )
            x, _ = scanned(config, plan.layers_per_superblock, self.dtype, name="layers")(x, *where)
        if plan.tail_layers:
            x, _ = block(config, plan.tail_layers, self.dtype, name="tail")(x, *where)
        return WindowViTOutput(x)
