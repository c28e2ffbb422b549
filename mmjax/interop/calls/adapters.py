"""How the models are called by the reference's own names of arguments and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Int, Shaped
from mmjax.interop.engine import Pretrained
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import DecoderOutput, layer_outputs
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.parallel.sharding import nested

Outputs = dict[str, Any]
Arguments = Mapping[str, Shaped[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class Either:
    """Arrays of which releases of the reference give one or the other under the same name."""

    choices: tuple[Shaped[Array, "..."], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompt:
    """What the reference's `generate` reads before it writes, in our words.

    first: further arguments of `decode` for the prompt; later: those for each token written after it.
    next_position: of the first token written, one a row.
    sequences: what stands before the written tokens in what the reference returns.
    """

    tokens: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    segments: Int[Array, "B T"]
    first: dict[str, Any]
    later: dict[str, Any]
    next_position: Int[Array, "B"]
    sequences: Int[Array, "B T"]


@dataclasses.dataclass(frozen=True)
class Decode:
    """A model's `method` as a `Writer` asks for it; two of the same model are equal, so that programs are kept."""

    model: nn.Module
    method: str = "decode"

    def __call__(
        self,
        parameters: Mapping[str, Array],
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        **further: Any,
    ) -> DecoderOutput:
        return self.model.apply(nested(parameters), tokens, positions, segments, method=self.method, **further)


@dataclasses.dataclass(frozen=True)
class Writer:
    """What generation needs of a model: its decoder's config, what its cache holds, and `decode`.

    stop: the token that ends a row, where it is not the one that the checkpoint's files name.
    decode(parameters, tokens, positions, segments, cache=, write_index=, **further) -> DecoderOutput
    """

    decoder: DecoderConfig
    cross: GatedCrossAttentionConfig | None
    media_length: int
    decode: Callable[..., DecoderOutput]
    stop: int | None = None


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One kind of model.

    methods: fn -> function(pretrained, parameters, arguments, kw) -> outputs by the reference's names. Pure in
      parameters and arguments, so that it can be differentiated. `kw` are the call's other keyword arguments.
    prompt: the same, for `generate`: -> Prompt; writer: function(pretrained, arguments) -> Writer.
    """

    methods: Mapping[str, Callable[[Pretrained, dict[str, Array], Arguments, Mapping[str, Any]], Outputs]]
    prompt: Callable[[Pretrained, dict[str, Array], Arguments, Mapping[str, Any]], Prompt] | None = None
    writer: Callable[[Pretrained, Prompt], Writer] | None = None


@dataclasses.dataclass(frozen=True)
class Padded:
    """Token arguments of a call: who is there, who looks, and where.

    The reference's padding looks at the text beside it as far as it may, so it does here (`looking`); what it writes
    where nothing can be seen is of no use, and is not compared.
    """

    tokens: Int[Array, "B T"]
    present: Int[Array, "B T"]
    looking: Int[Array, "B T"]
    positions: Int[Array, "B T"]


def padded(arguments: Arguments, *, tokens: str = "input_ids", counted: bool = False) -> Padded:
    """The text of a call; positions not given are 0, 1, ..., or `counted` from the first token that is there."""
    ids = as_int(arguments[tokens])
    mask = as_int(arguments["attention_mask"]) if "attention_mask" in arguments else jnp.ones_like(ids)
    if "position_ids" in arguments:
        positions = jnp.broadcast_to(as_int(arguments["position_ids"]), ids.shape)
    elif counted:
        positions = counted_positions(mask)
    else:
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None], ids.shape)
    return Padded(ids, mask, jnp.ones_like(mask), positions)


def counted_positions(mask: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """0 for the first token that is there, 1 for the next, and so on; padding before them is at 0."""
    return jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)


def text_prompt(arguments: Arguments, *, tokens: str = "input_ids", **further: Any) -> Prompt:
    """The prompt of a model whose prompt is its tokens; `further` as `first` and `later`."""
    text = padded({name: value for name, value in arguments.items() if name != "position_ids"}, tokens=tokens)
    positions = counted_positions(text.present)
    first, later = further.get("first", {}), further.get("later", {})
    following = jnp.max(jnp.where(text.present == 1, positions, -1), axis=1) + 1
    return Prompt(text.tokens, positions, text.present, first, later, following, text.tokens)


def as_int(x: Shaped[Array, "..."]) -> Int[Array, "..."]:
    """int32, the type of all numbers of ours."""
    return jnp.asarray(x).astype(jnp.int32)


def pictures(pixels: Shaped[Array, "... 3 h w"]) -> Shaped[Array, "... h w 3"]:
    """Channels last, as all pictures here."""
    return jnp.moveaxis(jnp.asarray(pixels), -3, -1)


def logits_of(output: DecoderOutput) -> Shaped[Array, "B T V"]:
    """The logits of all places."""
    scores = output.hidden @ output.unembedding.T
    cap = output.logits_softcap
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def decoder_outputs(
    decoder: DecoderConfig,
    cross: GatedCrossAttentionConfig | None,
    output: DecoderOutput,
    hidden: Mapping[str, Any],
    *,
    crossing: bool = False,
) -> Outputs:
    """Logits and hidden states of a language model; the last hidden state is the normalised one.

    crossing: the reference counts the cross-attention blocks among its layers.
    """
    layers = [x for name, x in layer_outputs(decoder, cross, hidden) if crossing or not name.startswith("cross_")]
    layers[-1] = output.hidden
    states = {f"hidden_states.{number}": x for number, x in enumerate(layers)}
    return {"logits": logits_of(output), "last_hidden_state": output.hidden, **states}
