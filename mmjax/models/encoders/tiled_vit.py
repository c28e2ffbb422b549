"""The vision transformer of Llama 3.2 Vision (Mllama; Dubey et al. 2024, section 7.1): a picture is a few tiles that
attend to one another, and the outputs of layers from within stand beside the last one's."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import ConfigError, InputError
from mmjax.layers.linear import Linear, Norm
from mmjax.layers.mlp import Activation
from mmjax.layers.parameters import parameter
from mmjax.layers.remat import Remat, remat
from mmjax.models.encoders.vit import ViTBlock, ViTConfig
from mmjax.ops.masks import AttentionMask
from mmjax.parallel.sharding import constrain

# The tokens of a tile, its class token among them, are filled up with zeros to a multiple of this.
_MULTIPLE = 8
_OUTER_NORM_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class TiledViTConfig:
    """The specification of a tiled vision transformer.

    image_size: pixels along a side of a (square) tile; tiles: how many a picture may have.
    aspect_ratios: shapes that a picture may be cut into, as (rows, columns) of tiles. A picture's shape is named by its
      number here, counted from 1; 0 stands for no picture.
    layers, global_layers: of the first transformer, and of the second, whose sublayers are gated.
    taps: layers of the first transformer, counted from 0, whose outputs are features too.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    global_layers: int
    heads: int
    mlp_width: int
    tiles: int
    aspect_ratios: tuple[tuple[int, int], ...]
    taps: tuple[int, ...] = ()
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    remat: Remat = "none"

    def __post_init__(self):
        if not all(0 <= tap < self.layers for tap in self.taps):
            raise ConfigError(f"taps must be from 0 to {self.layers - 1} (layers - 1), not {self.taps}")
        too_large = [f"{rows}x{columns}" for rows, columns in self.aspect_ratios if rows * columns > self.tiles]
        if too_large:
            raise ConfigError(f"aspect_ratios {', '.join(too_large)} have more than {self.tiles} tiles")

    @property
    def grid(self) -> int:
        """Patches along a side of a tile."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Features of one tile: its class token's and its patches'."""
        return self.grid**2 + 1

    @property
    def features(self) -> int:
        """Width of the features."""
        return self.width * (1 + len(self.taps))

    def blocks(self, layers: int, gate: float | None) -> ViTConfig:
        """The blocks of one of the transformers."""
        return ViTConfig(
            self.image_size,
            self.patch_size,
            self.width,
            layers,
            self.heads,
            self.mlp_width,
            activation=self.activation,
            norm_eps=self.norm_eps,
            attention_bias=False,
            sublayer_gate=gate,
            remat=self.remat,
        )


class TiledViT(nn.Module):
    """Tiles, already normalised, to features of their class tokens and patches.

    Two places that both stand for nothing (a tile that is not there, a token that only fills up) do not see each other;
    all others do, so what fills up is seen by the picture. For one tile of two tokens, filled up to three, and one that
    is not there (`#` marks a key that a query sees):

        # # # # # #
        # # # # # #
        # # . . . .
        # # . . . .
        # # . . . .
        # # . . . .
    """

    config: TiledViTConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tiles: Float[Array, "N M h w 3"], tile_mask: Bool[Array, "N M"], aspect_ratios: Int[Array, "N"]
    ) -> Float[Array, "N M P E"]:
        """Features of every tile M of every picture N; `aspect_ratios` as the config numbers them.

        Raises:
          InputError: tiles of another size or number than the config has.
        """
        config = self.config
        count, most, *size = tiles.shape[:4]
        if size != [config.image_size] * 2 or most != config.tiles:
            raise InputError(
                f"pictures must be {config.tiles} tiles (those that are missing are masked) of {config.image_size}x"
                f"{config.image_size} pixels, not {most} of {size[0]}x{size[1]}"
            )
        x = self._patches(tiles.astype(self.dtype)) + self._of_tile("before", aspect_ratios)
        first = jnp.broadcast_to(self._table("class_token", 1)[None, None], (count, most, 1, config.width))
        x = self._with_positions(jnp.concatenate([first, x], axis=2), aspect_ratios)
        x = Norm("layer", _OUTER_NORM_EPS, name="embedding_norm")(x)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, -config.tokens % _MULTIPLE), (0, 0)))
        mask = _both_real(tile_mask, config.tokens, x.shape[2])

        inner = (count, most * x.shape[2], config.width)
        x, outputs = self._transformer("layers", config.layers, None, x.reshape(inner), mask)
        x = Norm("layer", _OUTER_NORM_EPS, name="final_norm")(x).reshape(count, most, -1, config.width)
        x = x + self._of_tile("after", aspect_ratios)
        x, _ = self._transformer("global_layers", config.global_layers, math.pi / 4, x.reshape(inner), mask)

        if config.taps:
            # Channel by channel, those of all taps beside one another.
            tapped = jnp.stack([outputs[tap] for tap in config.taps], axis=-1).reshape(count, inner[1], -1)
            x = jnp.concatenate([x, tapped], axis=-1)
        return x.reshape(count, most, -1, config.features)[:, :, : config.tokens]

    def _patches(self, tiles):
        config = self.config
        count, most = tiles.shape[:2]
        side, patch = config.grid, config.patch_size
        seen = tiles[:, :, : side * patch, : side * patch]
        seen = seen.reshape(count, most, side, patch, side, patch, 3).transpose(0, 1, 2, 4, 3, 5, 6)
        seen = seen.reshape(count, most, side * side, patch, patch, 3)
        return Linear((config.width,), (None, None, None), ("embed",), dtype=self.dtype, rows="image", name="patch")(
            seen
        )

    def _table(self, name, *rows):
        axes = (*(None,) * len(rows), "embed")
        shape = (*rows, self.config.width)
        return parameter(self, name, nn.initializers.normal(0.02), shape, axes, self.dtype)

    def _gate(self, name):
        return jnp.tanh(parameter(self, name, nn.initializers.zeros_init(), (), ())).astype(self.dtype)

    def _of_tile(self, when, aspect_ratios):
        """What is added to all places of a tile, by the picture's shape and the tile's number."""
        config = self.config
        table = self._table(f"tile_embedding_{when}", len(config.aspect_ratios) + 1, config.tiles)
        return self._gate(f"tile_gate_{when}") * table[aspect_ratios][:, :, None]

    def _with_positions(self, x, aspect_ratios):
        config = self.config
        gate = self._gate("position_gate")
        shapes = len(config.aspect_ratios) + 1
        within = self._table("position_embedding", config.tokens)
        of_tiles = self._table("tile_position_embedding", shapes, config.tiles, config.tokens)
        return x + (1 - gate) * within[None, None] + gate * of_tiles[aspect_ratios]

    def _transformer(self, name, depth, gate, x, mask):
        config = self.config
        block = remat(ViTBlock, config.remat)
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "attention": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
            check_constancy_invariants=False,  # traced once; there is no variable that it would check
        )
        x = constrain(x, "image", "patch", "embed")
        return layers(config.blocks(depth, gate), self.dtype, name=name)(x, mask)


def _both_real(tile_mask, tokens, length) -> AttentionMask:
    """Who sees whom among the `length` places of every tile, of which the first `tokens` stand for something."""
    real = tile_mask[:, :, None] & (jnp.arange(length) < tokens)[None, None]
    nothing = ~real.reshape(real.shape[0], -1)
    return AttentionMask(allowed=~(nothing[:, :, None] & nothing[:, None, :]))
