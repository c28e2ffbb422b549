"""Pictures as soft tokens: features of a picture encoder stand in the decoder's own sequence (LLaVA, PaliGemma,
Gemma-3, Idefics-3, BLIP-2, Qwen2.5-VL)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.batch import Batch
from mmjax.core.errors import ConfigError, InputError
from mmjax.layers.parameters import parameter
from mmjax.models.connectors.projector import Projector, ProjectorConfig
from mmjax.models.connectors.q_former import QFormer, QFormerConfig, Question
from mmjax.models.connectors.tiles import TilesConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder, DecoderOutput, Inline
from mmjax.models.encoders.vit import ViT, ViTConfig, ViTOutput
from mmjax.models.encoders.window_vit import PackedPatches, WindowViT, WindowViTConfig, WindowViTOutput
from mmjax.ops.images import normalize_images
from mmjax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class InlineConfig:
    """The parts of the model.

    image_token: the token id in whose places features stand.
    sees: what sees more than its past: "past" nothing (LLaVA), "image" the tokens of one picture each other (Gemma-3),
      "prefix" all tokens before the answer each other (PaliGemma).
    video_token: the token id in whose places features of videos stand; None: there are no videos.
    tiles: pictures are read in tiles, and a learned vector ends each row of theirs (LLaVA-NeXT); None: they are not.
    image_mean, image_std: per channel, of pixel values in [0, 1].
    """

    vision: ViTConfig | WindowViTConfig
    connector: ProjectorConfig | QFormerConfig
    decoder: DecoderConfig
    image_token: int
    sees: Literal["past", "image", "prefix"] = "past"
    video_token: int | None = None
    tiles: TilesConfig | None = None
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        if self.tiles is None:
            return
        if not isinstance(self.connector, ProjectorConfig) or self.connector.join > 1:
            raise ConfigError(
                "tiles need a projector as the connector, without join, so that their vectors form a grid"
            )
        if self.vision.feature_tokens == "all" and (self.vision.class_token or self.vision.registers):
            raise ConfigError("the vectors of tiles form a grid; set vision.feature_tokens to 'patches'")
        for resolution in self.tiles.resolutions:
            if any(edge % self.vision.image_size for edge in resolution):
                raise ConfigError(
                    f"tiles.resolutions has {resolution}, which is not in tiles of {self.vision.image_size} pixels"
                )

    @property
    def side(self) -> int:
        """Vectors along a side of a tile."""
        return self.vision.grid // (self.connector.pool * self.connector.shuffle)

    @property
    def image_tokens(self) -> int:
        """Tokens that stand for a picture of `image_size`, as many as it has vectors.

        Raises:
          ConfigError: pictures differ in that number (tiles, or patches at the picture's own size).
        """
        if self.tiles is not None or not isinstance(self.vision, ViTConfig):
            raise ConfigError("pictures in tiles, or of sizes of their own, cannot be trained on yet; use a plain ViT")
        if isinstance(self.connector, QFormerConfig):
            return self.connector.queries
        if self.connector.pool > 1 or self.connector.shuffle > 1:
            return self.side**2
        before = int(self.vision.class_token) + self.vision.registers if self.vision.feature_tokens == "all" else 0
        return (self.vision.grid**2 + before) // self.connector.join


# The parts that are counted and named apart: name -> pattern of parameter paths.
PARTS = {"vision": r"vision/.*", "connector": r"connector/.*", "language": r"decoder/.*", "newline": r"newline"}

# By the class of their configs: the encoder, and what is between it and the text.
ENCODERS: dict[type, type[nn.Module]] = {ViTConfig: ViT, WindowViTConfig: WindowViT}
CONNECTORS: dict[type, type[nn.Module]] = {ProjectorConfig: Projector, QFormerConfig: QFormer}


class InlineModel(nn.Module):
    """Pictures and tokens to hidden states."""

    config: InlineConfig
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        self.vision = ENCODERS[type(config.vision)](config.vision, self.dtype)
        self.connector = CONNECTORS[type(config.connector)](config.connector, self.dtype)
        self.decoder = Decoder(config.decoder, None, self.dtype)
        if config.tiles is not None:
            width = config.connector.width
            self.newline = parameter(self, "newline", nn.initializers.normal(width**-0.5), (width,), ("embed",))

    def __call__(
        self,
        images: Float[Array, "B N h w 3"] | PackedPatches,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        blocks: Int[Array, "B T"] | None = None,
        question: Question | None = None,
        rope_positions: Int[Array, "B T axes"] | None = None,
        present: Bool[Array, "B N P"] | None = None,
        order: Int[Array, "B Q"] | None = None,
    ) -> DecoderOutput:
        """Rows whose image tokens are taken, in order, by the features of the row's pictures (normalised already).

        The patches of a packed row are those of its pictures and videos in the order of the text.

        question: of each picture `[B, N, S]`, for a connector that reads one (InstructBLIP).
        present: which patches of each picture are no padding (Idefics-3).
        order: where a row's pictures are tiles, the numbers of its vectors as they stand in the text, those of
          `connectors.tiles.tile_order` for the row (LLaVA-NeXT); None: one picture after the other.
        """
        if question is not None:
            question = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), question)
        if not isinstance(images, PackedPatches):
            images = images.reshape(-1, *images.shape[2:])
        if present is not None:
            present = present.reshape(-1, present.shape[-1])
        features, _ = self.encode(images, question, present)
        features = features.reshape(tokens.shape[0], -1, features.shape[-1])
        if order is not None:
            features = self.arrange(features, order)
        there = tokens == self.config.image_token
        if self.config.video_token is not None:
            there |= tokens == self.config.video_token
        index = jnp.where(there, jnp.cumsum(there, axis=1, dtype=jnp.int32), 0)
        inline = Inline(features, index)
        return self.decode(tokens, positions, segment_ids, inline=inline, blocks=blocks, rope_positions=rope_positions)

    def read(self, batch: Batch, **further: Any) -> DecoderOutput:
        """Hidden states of every position of the batch, in which each picture has `image_tokens` image tokens.

        Further arguments as `Decoder`'s.

        Raises:
          ConfigError: videos, or pictures that differ in their number of tokens.
        """
        config = self.config
        count = config.image_tokens
        if batch.images.ndim != 5:
            raise ConfigError("pictures in the text have one frame: set data.frames to 1")
        pictures = constrain(batch.images.reshape(-1, *batch.images.shape[2:]), "image", None, None, None)
        features, _ = self.encode(normalize_images(pictures, config.image_mean, config.image_std, self.dtype))
        there = batch.tokens == config.image_token
        index = places_of_features(there, batch.media_index, count)
        features = features.reshape(len(batch.tokens), -1, features.shape[-1])
        blocks = None
        if config.sees == "prefix":
            blocks = prefix_of(batch).astype(jnp.int32)
        elif config.sees == "image":
            blocks = jnp.where(there, batch.media_index, 0)
        texts = (batch.tokens, batch.positions, batch.segment_ids)
        return self.decode(*texts, inline=Inline(features, index), blocks=blocks, **further)

    def encode(
        self,
        images: Float[Array, "M h w 3"] | PackedPatches,
        question: Question | None = None,
        present: Bool[Array, "M P"] | None = None,
    ) -> tuple[Float[Array, "M S D"], ViTOutput | WindowViTOutput]:
        """The vectors that stand for each picture (or for all of a packed row), and all that its encoder saw.

        Raises:
          InputError: a question, but no connector that reads one.
        """
        output = self.vision(images) if present is None else self.vision(images, present=present)
        if question is None:
            return self.connector(output.features), output
        if not isinstance(self.config.connector, QFormerConfig):
            raise InputError("only a Q-Former reads a question about the picture; leave it out")
        return self.connector(output.features, question), output

    def arrange(self, features: Float[Array, "B S D"], order: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
        """The vectors of each row's tiles as `connectors.tiles.tile_order` numbers them, the newline's among them.

        Raises:
          InputError: a model that does not read tiles.
        """
        if self.config.tiles is None:
            raise InputError("only a model that reads tiles puts vectors in another order; leave `order` out")
        newline = jnp.broadcast_to(
            self.newline.astype(features.dtype)[None, None], (len(features), 1, features.shape[-1])
        )
        return jnp.take_along_axis(jnp.concatenate([features, newline], axis=1), order[:, :, None], axis=1)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        **further: Any,
    ) -> DecoderOutput:
        """The text; further arguments as `Decoder`'s."""
        return self.decoder(tokens, positions, segment_ids, **further)


def places_of_features(there: Bool[Array, "B T"], media_index: Int[Array, "B T"], count: int) -> Int[Array, "B T"]:
    """Which of a row's features, numbered from 1, stands at each position that is `there`; 0 elsewhere.

    Picture k has the features (k - 1) count + 1 to k count; count = 2:

        there          . # # . . # # . .
        media_index    0 1 1 1 1 3 3 3 0
        places         0 1 2 0 0 5 6 0 0
    """
    before = jnp.pad(media_index, ((0, 0), (1, 0)))[:, :-1]
    follows = jnp.pad(there, ((0, 0), (1, 0)))[:, :-1] & (before == media_index)
    number = jnp.cumsum(there, axis=1, dtype=jnp.int32)
    first = jax.lax.cummax(jnp.where(there & ~follows, number, 0), axis=1)
    return jnp.where(there, (media_index - 1) * count + number - first + 1, 0)


def prefix_of(batch: Batch) -> Bool[Array, "B T"]:
    """The tokens of each packed example before the first that is learned: what is given, and seen from both sides.

    `targets` are one position ahead, so that the weight at `:` is that of `a`:

        tokens          I  I  q  :  a  /  I  I  :  b  /  .     I image, / last token, . padding
        segment_ids     1  1  1  1  1  1  2  2  2  2  2  0
        loss_weights    0  0  0  1  1  0  0  0  1  1  0  0
        prefix          #  #  #  #  .  .  #  #  #  .  .  .
    """
    learned = (batch.loss_weights > 0).astype(jnp.int32)
    before = jnp.cumsum(learned, axis=1, dtype=jnp.int32) - learned
    at_start = jax.lax.cummax(jnp.where(batch.positions == 0, before, 0), axis=1)
    return (before == at_start) & (batch.segment_ids > 0)
