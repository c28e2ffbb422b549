"""The Q-Former of BLIP-2 (Li et al. 2023): a few learned queries that read a picture's features, and, in InstructBLIP
(Dai et al. 2023), the question that is asked about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import ConfigError, InputError
from mmjax.layers.attention import Attention, AttentionConfig
from mmjax.layers.linear import Linear, Norm
from mmjax.layers.mlp import MLP, Activation
from mmjax.layers.parameters import parameter
from mmjax.ops.masks import AttentionMask
from mmjax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class QFormerConfig:
    """`queries` vectors of `query_width` that read features in `layers` layers of BERT; then a linear map to `width`.

    cross_every: the first of every so many layers attends to the features.
    vocab_size, max_length: rows of the tables of a question's tokens and positions; 0: no question is read (BLIP-2).
    """

    width: int
    queries: int
    query_width: int
    layers: int
    heads: int
    mlp_width: int
    cross_every: int = 2
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    vocab_size: int = 0
    max_length: int = 0

    def __post_init__(self):
        if self.query_width % self.heads:
            raise ConfigError(f"query_width ({self.query_width}) must be a multiple of heads ({self.heads})")
        if self.cross_every < 1:
            raise ConfigError(f"cross_every counts layers from 1, so it cannot be {self.cross_every}")
        if (self.vocab_size > 0) != (self.max_length > 0):
            raise ConfigError(
                f"a question needs both vocab_size ({self.vocab_size}) and max_length ({self.max_length}), or neither"
            )

    @property
    def superblocks(self) -> int:
        """How many times `cross_every` layers repeat."""
        return self.layers // self.cross_every

    @property
    def tail_layers(self) -> int:
        """The layers left over."""
        return self.layers % self.cross_every


@flax.struct.dataclass
class Question:
    """Token ids, and which of them are no padding."""

    tokens: Int[Array, "*M T"]
    present: Bool[Array, "*M T"]


class QFormerLayer(nn.Module):
    """Self-attention of queries and question together, cross-attention of the queries where the layer has one, and a
    feed-forward for each kind; a norm after every residual sum."""

    config: QFormerConfig
    crosses: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "M S D"], features: Float[Array, "M P E"], mask: AttentionMask
    ) -> Float[Array, "M S D"]:
        config = self.config
        x = self._normed("attention", x, self._attend("attention", x, x, mask))
        queries, text = x[:, : config.queries], x[:, config.queries :]
        if self.crosses:
            y = self._attend("cross_attention", queries, features, AttentionMask())
            queries = self._normed("cross_attention", queries, y)
        queries = self._feed_forward("mlp", queries)
        if not config.vocab_size:
            return constrain(queries, "image", "latent", "embed")
        both = jnp.concatenate([queries, self._feed_forward("text_mlp", text)], axis=1)
        return constrain(both, "image", "latent", "embed")

    def _attend(self, name, x, memory, mask):
        config = self.config
        heads = AttentionConfig(config.heads, config.query_width // config.heads, qkv_bias=True, out_bias=True)
        return Attention(heads, dtype=self.dtype, rows="image", name=name)(x, memory, mask=mask)[0]

    def _feed_forward(self, name, x):
        mlp = MLP(
            self.config.mlp_width, self.config.activation, use_bias=True, dtype=self.dtype, rows="image", name=name
        )
        return self._normed(name, x, mlp(x))

    def _normed(self, name, x, y):
        return Norm("layer", self.config.norm_eps, name=f"{name}_norm")(x + y)


class QFormerBlock(nn.Module):
    """`layers` layers, of which the first attends to the features."""

    config: QFormerConfig
    layers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "M S D"], features: Float[Array, "M P E"], mask: AttentionMask
    ) -> tuple[Float[Array, "M S D"], None]:
        for layer in range(self.layers):
            x = QFormerLayer(self.config, layer == 0, self.dtype, name=f"self_{layer}")(x, features, mask)
            self.sow("hidden", f"self_{layer}_output", x)
        return x, None


class QFormer(nn.Module):
    """Picture features to `queries` vectors that stand in a text.

    Queries and question are kept in the collection "hidden" for a caller that asks for it; see `layer_outputs`.
    """

    config: QFormerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "M P E"], question: Question | None = None) -> Float[Array, "M R D"]:
        """The queries read the features of each picture, and its question where there is one.

        Raises:
          InputError: a question for a model that reads none, or one longer than its table of positions.
        """
        config = self.config
        features = features.astype(self.dtype)
        pictures = features.shape[0]
        if question is not None and not config.vocab_size:
            raise InputError("this Q-Former reads no question; leave it out, or set vocab_size and max_length")
        queries = self._table("queries", config.queries, "latent")
        x = jnp.broadcast_to(queries[None], (pictures, *queries.shape))
        ones = jnp.ones((pictures, config.queries), jnp.int32)
        mask = AttentionMask()
        if config.vocab_size:
            if question is None:
                # Of no tokens, so that the parameters do not depend on whether a question is asked.
                question = Question(jnp.zeros((pictures, 0), jnp.int32), jnp.zeros((pictures, 0), bool))
            x = jnp.concatenate([x, self._embed(question.tokens)], axis=1)
            there = jnp.concatenate([ones, question.present.astype(jnp.int32)], axis=1)
            # Padding looks at the rest, as BERT's does, but is seen by none.
            mask = AttentionMask(query_segments=jnp.ones_like(there), key_segments=there)
        x = Norm("layer", config.norm_eps, name="embedding_norm")(x)
        self.sow("hidden", "embeddings", x)
        x = self._layers(constrain(x, "image", "latent", "embed"), features, mask)
        out = Linear((config.width,), ("embed",), (None,), True, self.dtype, rows="image", name="out")
        return out(x[:, : config.queries])

    def _embed(self, tokens):
        config = self.config
        length = tokens.shape[1]
        if length > config.max_length:
            raise InputError(f"a question of {length} tokens was given, but the Q-Former reads {config.max_length}")
        words = self._table("embedding", config.vocab_size, "vocab")
        places = self._table("position_embedding", config.max_length, None)
        return jnp.take(words, tokens, axis=0) + places[None, :length]

    def _table(self, name, rows, axis):
        shape = (rows, self.config.query_width)
        return parameter(self, name, nn.initializers.normal(0.02), shape, (axis, "embed"), self.dtype)

    def _layers(self, x, features, mask):
        config = self.config
        if config.superblocks:
            scanned = nn.scan(
                QFormerBlock,
                variable_axes={"params": 0, "attention": 0, "hidden": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, nn.broadcast),
                length=config.superblocks,
                metadata_params={nn.PARTITION_NAME: "layers"},
                check_constancy_invariants=False,  # traced once; there is no variable that it would check
            )
            x, _ = scanned(config, config.cross_every, self.dtype, name="layers")(x, features, mask)
        if config.tail_layers:
            x, _ = QFormerBlock(config, config.tail_layers, self.dtype, name="tail")(x, features, mask)
        return x


def layer_outputs(config: QFormerConfig, hidden: Mapping[str, Any]) -> list[Float[Array, "M S D"]]:
    """The embeddings and every layer's output, queries before question, from the Q-Former's collection "hidden"."""
    outputs = [hidden["embeddings"][0]]
    for block in range(config.superblocks):
        outputs += [hidden["layers"][f"self_{layer}_output"][0][block] for layer in range(config.cross_every)]
    return outputs + [hidden["tail"][f"self_{layer}_output"][0] for layer in range(config.tail_layers)]
