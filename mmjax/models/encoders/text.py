"""Text encoders: a stack of transformer layers, one vector a text, and a projection (CLIP, SigLIP, BERT)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import ConfigError
from mmjax.layers.linear import Linear, Norm
from mmjax.layers.mlp import ACTIVATIONS
from mmjax.layers.parameters import parameter
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """The specification of a text encoder.

    decoder: its layers; `causal` False lets every token see the whole text.
    pool: which token the text's vector is taken from: the "first" (BERT), the "last" place, padded or not (SigLIP), or
      the first "eos" (CLIP).
    eos: id of that token; None: the highest id of the text (the first releases of CLIP).
    projection: width of a linear map of that vector; 0: none.
    masked_lm: a head that tells masked tokens, one more layer before the embeddings as its unembedding (BERT).
    """

    decoder: DecoderConfig
    pool: Literal["first", "last", "eos", "none"] = "first"
    eos: int | None = None
    projection: int = 0
    projection_bias: bool = False
    projection_activation: Literal["none", "tanh"] = "none"
    masked_lm: bool = False

    def __post_init__(self):
        if self.projection and self.pool == "none":
            raise ConfigError("projection maps the pooled vector; set pool to 'first', 'last' or 'eos'")


@flax.struct.dataclass
class TextEncoderOutput:
    """`hidden` of every token, the `pooled` vector, and the same `projected` where there is a projection.

    `logits` are those of the masked-token head, where there is one.
    """

    hidden: Float[Array, "B T D"]
    pooled: Float[Array, "B D"] | None
    projected: Float[Array, "B E"] | None
    logits: Float[Array, "B T V"] | None


class TextEncoder(nn.Module):
    """Token ids to hidden states and one vector a text."""

    config: TextEncoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        token_types: Int[Array, "B T"] | None = None,
        query_segments: Int[Array, "B T"] | None = None,
    ) -> TextEncoderOutput:
        """Segment 0 is padding; the other arguments as those of `Decoder`."""
        config = self.config
        output = Decoder(config.decoder, None, self.dtype, name="decoder")(
            tokens, positions, segment_ids, token_types=token_types, query_segments=query_segments
        )
        pooled = self._pool(tokens, output.hidden)
        projected = self._project(pooled) if config.projection else None
        logits = self._tell(output) if config.masked_lm else None
        return TextEncoderOutput(output.hidden, pooled, projected, logits)

    def _project(self, pooled):
        config = self.config
        project = Linear(
            (config.projection,), ("embed",), (None,), config.projection_bias, self.dtype, name="projection"
        )
        y = project(pooled)
        return jnp.tanh(y) if config.projection_activation == "tanh" else y

    def _tell(self, output):
        inner = self.config.decoder
        y = Linear((inner.width,), ("embed",), (None,), True, self.dtype, name="masked_lm")(output.hidden)
        y = Norm(inner.norm, inner.norm_eps, name="masked_lm_norm")(ACTIVATIONS[inner.activation](y))
        bias = parameter(self, "masked_lm_bias", nn.initializers.zeros_init(), (inner.vocab_size,), ("vocab",), y.dtype)
        return y @ output.unembedding.T.astype(y.dtype) + bias[None, None, :]

    def _pool(self, tokens, hidden):
        config = self.config
        if config.pool == "none":
            return None
        if config.pool == "first":
            return hidden[:, 0]
        if config.pool == "last":
            return hidden[:, -1]
        wanted = tokens if config.eos is None else (tokens == config.eos).astype(jnp.int32)
        return hidden[jnp.arange(tokens.shape[0]), jnp.argmax(wanted, axis=-1)]
