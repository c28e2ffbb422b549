"""What distinguishes one decoder language model from another."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from mmjax.core.errors import ConfigError
from mmjax.layers.attention import AttentionConfig
from mmjax.layers.mlp import Activation
from mmjax.layers.remat import Remat
from mmjax.ops.rope import RopeScaling


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The specification of a decoder.

    norm_position: "pre" (most), "post" (after the residual sum, the first transformers), or "sandwich" (before and
      after each sublayer, Gemma-2 and 3).
    norm_offset: added to the RMS scale (1 in Gemma).
    positions: "rotary", "learned" (table of `max_length` + `position_offset` rows), "alibi", or "none".
    rope_local_base: base of the layers that have a window (Gemma-3), without scaling; None: `rope_base`.
    rope_fraction: share of the head width that is rotated (GPT-NeoX).
    rope_sections: how many of the rotary channel pairs turn with each axis of a position: with time, height and width
      (Qwen2-VL); None: a position is one number.
    windows: sliding windows in tokens, cycled over the layers; None: the whole past.
    window_cuts_blocks: tokens of a block (of one picture, say) see each other only as far back as the window (Gemma-3).
    qk_norm: see `AttentionConfig`.  attention_scale: None is head_width ** -0.5.
    embedding_scale: embeddings are multiplied by sqrt(width) (Gemma).
    embedding_init: standard deviation that the embeddings start with.
    added_vocab: the last rows of the vocabulary, which stand in tables of their own, so that they can be trained where
      the others are frozen (IDEFICS).
    embedding_norm: a norm between the embeddings and the first layer (BERT).
    token_types: rows of a table that is added to the embeddings (BERT).
    causal: False lets every token see all of its segment, before and after it (an encoder).
    final_norm: a norm after the last layer.
    encoder_attention: between self-attention and feed-forward, every layer attends to the media (the decoder of
      Vaswani et al. 2017, GPT-2 as a captioner); without a gate, with heads and biases as the self-attention.
    extra_embeddings: rows of the input embeddings beyond the vocabulary: tokens that are read, but never written.
    parallel_residual: attention and feed-forward read the same input (GPT-NeoX).
    remat: what the backward pass computes again; see `layers.remat`.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    head_width: int
    mlp_width: int
    kv_heads: int | None = None
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    norm_bias: bool = True
    norm_position: Literal["pre", "post", "sandwich"] = "pre"
    activation: Activation = "silu"
    mlp_gated: bool = True
    mlp_bias: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    qk_norm_kind: Literal["rms", "layer"] = "rms"
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    positions: Literal["rotary", "learned", "alibi", "none"] = "rotary"
    max_length: int = 0
    position_offset: int = 0
    rope_base: float = 10_000.0
    rope_local_base: float | None = None
    rope_scaling: RopeScaling | None = None
    rope_fraction: float = 1.0
    rope_sections: tuple[int, ...] | None = None
    windows: tuple[int | None, ...] = (None,)
    window_cuts_blocks: bool = False
    tied_embeddings: bool = True
    embedding_scale: bool = False
    embedding_init: float = 0.02
    added_vocab: int = 0
    embedding_norm: bool = False
    token_types: int = 0
    causal: bool = True
    final_norm: bool = True
    encoder_attention: bool = False
    extra_embeddings: int = 0
    parallel_residual: bool = False
    remat: Remat = "none"

    def __post_init__(self):
        if self.positions == "learned" and self.max_length < 1:
            raise ConfigError("learned positions need max_length, the number of rows of their table")
        if self.parallel_residual and self.norm_position != "pre":
            raise ConfigError(f"parallel_residual goes with norm_position 'pre', not {self.norm_position!r}")
        yarn = self.rope_scaling is not None and self.rope_scaling.kind == "yarn"
        if yarn and (self.rope_fraction != 1 or self.rope_local_base is not None):
            raise ConfigError("yarn scales the scores of all channels and layers: rope_fraction 1, no rope_local_base")
        pairs = int(self.head_width * self.rope_fraction) // 2
        if self.rope_sections is not None and sum(self.rope_sections) != pairs:
            raise ConfigError(f"rope_sections must add up to the {pairs} rotary pairs, not {self.rope_sections}")
        if self.encoder_attention and (self.parallel_residual or self.norm_position != "pre"):
            raise ConfigError("encoder_attention goes with norm_position 'pre' and without parallel_residual")
        if self.extra_embeddings and self.tied_embeddings:
            raise ConfigError("extra_embeddings are rows that no logits belong to: set tied_embeddings to False")
        if not 0 <= self.added_vocab < self.vocab_size:
            raise ConfigError(f"added_vocab is a part of the vocabulary ({self.vocab_size}), not {self.added_vocab}")
        if not self.windows:
            raise ConfigError("windows must name at least one layer; (None,) is full attention everywhere")

    @property
    def attention(self) -> AttentionConfig:
        """The self-attention of every layer."""
        scale = self.attention_scale
        if self.rope_scaling is not None and self.rope_scaling.attention_factor != 1:
            # yarn lengthens the rotated queries and keys alike; that is a factor on their products.
            plain = self.head_width**-0.5 if scale is None else scale
            scale = plain * self.rope_scaling.attention_factor**2
        return AttentionConfig(
            heads=self.heads,
            head_width=self.head_width,
            kv_heads=self.kv_heads,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            qk_norm=self.qk_norm,
            qk_norm_kind=self.qk_norm_kind,
            norm_eps=self.norm_eps,
            norm_offset=self.norm_offset,
            scale=scale,
            softcap=self.attention_softcap,
        )


@dataclasses.dataclass(frozen=True)
class DepthPlan:
    """How the layers are cut into equal superblocks (scanned) and a shorter tail."""

    superblocks: int
    layers_per_superblock: int
    tail_layers: int


def depth_plan(layers: int, windows: int, cross_every: int | None, regular: bool = True) -> DepthPlan:
    """Superblocks hold a whole number of window cycles (`windows` long) and of cross-attention strides.

    Where one such superblock is longer than the model, or nothing repeats (not `regular`), every layer is in the tail.
    """
    if not regular:
        return DepthPlan(0, layers, layers)
    size = math.lcm(windows, cross_every or 1)
    return DepthPlan(layers // size, size, layers % size)
