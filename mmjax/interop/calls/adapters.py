"""How the models are called by the reference's own names of arguments and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Int, Shaped
from mmjax.core.errors import InputError
from mmjax.decoding.writer import Decode, Opening, Writer
from mmjax.interop.engine import Pretrained
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import DecoderOutput, layer_outputs
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.parallel.sharding import nested

# Arguments with a place for each token: the tokens themselves, and what is 0 where none is.
TOKENS = ("input_ids", "lang_x")
OF_TOKENS = (
    *(*TOKENS, "attention_mask", "token_type_ids", "mm_token_type_ids"),
    *("cross_attention_mask", "image_attention_mask"),
)
Outputs = dict[str, Any]
Arguments = Mapping[str, Shaped[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class Either:
    """Arrays of which releases of the reference give one or the other under the same name."""

    choices: tuple[Shaped[Array, "..."], ...]


def writer_of(
    pretrained: Pretrained, opening: Opening, *, decode: type[Decode] = Decode, stop: int | None = None
) -> Writer:
    """How a model goes on from `opening`; of media, its cache holds as many places as the opening's have."""
    config, media = pretrained.config, opening.first.get("media")
    alone = isinstance(config, DecoderConfig)
    return Writer(
        config if alone else config.decoder,
        getattr(config, "cross", None),
        0 if media is None else media.segments.shape[1],
        decode(pretrained.model(), "__call__" if alone else "decode"),
        stop,
    )


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One kind of model.

    methods: fn -> function(pretrained, parameters, arguments, kw) -> outputs by the reference's names. Pure in
      parameters and arguments, so that it can be differentiated. `kw` are the call's other keyword arguments.
    prompt: the same, for `generate`: -> Opening; writer: function(pretrained, opening) -> Writer.
    vectors: the same, of pictures that stand in the text: how many vectors they have, which `prompt` does not compare
      with the tokens that it is given.
    """

    methods: Mapping[str, Callable[[Pretrained, dict[str, Array], Arguments, Mapping[str, Any]], Outputs]]
    prompt: Callable[[Pretrained, dict[str, Array], Arguments, Mapping[str, Any]], Opening] | None = None
    writer: Callable[[Pretrained, Opening], Writer] = writer_of
    vectors: Callable[[Pretrained, dict[str, Array], Arguments, Mapping[str, Any]], Int[Array, ""]] | None = None


# What changes nothing that is given here: which outputs are told, and how; losses are not.
_WITHOUT_EFFECT = {
    *("output_hidden_states", "output_attentions", "return_dict", "use_cache", "labels", "return_loss"),
    # Positions are always brought to the picture's size, and the reference refuses other sizes where they are not.
    "interpolate_pos_encoding",
}


class _Watched(dict):
    """Arguments that know which of them have been read, or asked for."""

    def __init__(self, arguments: Mapping[str, Any]):
        super().__init__(arguments)
        self.read: set[str] = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self.read.add(name)
        return super().__contains__(name)

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)

    def items(self):
        self.read.update(self)
        return super().items()


def strictly(method: Callable[..., Outputs], name: str) -> Callable[..., Outputs]:
    """An adapter's method that refuses arguments which it does not read, as nothing is told of what they would change.

    Raises (when called):
      InputError: there are such arguments; they are listed.
    """

    def call(pretrained: Pretrained, parameters: dict[str, Array], arguments: Arguments, kw: Mapping[str, Any]):
        watched = _Watched(arguments), _Watched(kw)
        outputs = method(pretrained, parameters, *watched)
        unread = sorted(key for given in watched for key in given.keys() - given.read - _WITHOUT_EFFECT)
        if unread:
            raise InputError(
                f"{name} of the family {pretrained.family.model_type} does not read {', '.join(unread)} here; leave "
                f"{'it' if len(unread) == 1 else 'them'} out"
            )
        return outputs

    return call


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


def decoded(
    pretrained: Pretrained, parameters: Mapping[str, Array], text: Padded, *, method: str = "decode", **further: Any
) -> tuple[DecoderOutput, Mapping[str, Any]]:
    """What a model's `method` makes of a text and `further`, and its decoder's collection "hidden"."""
    output, kept = pretrained.model().apply(
        nested(parameters),
        text.tokens,
        text.positions,
        text.present,
        query_segments=text.looking,
        mutable=["hidden"],
        method=method,
        **further,
    )
    return output, kept["hidden"]["decoder"] if method == "decode" else kept["hidden"]


def counted_positions(mask: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """0 for the first token that is there, 1 for the next, and so on; padding before them is at 0."""
    return jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)


def text_prompt(arguments: Arguments, *, tokens: str = "input_ids", **further: Any) -> Opening:
    """The prompt of a model whose prompt is its tokens; `further` as `first` and `later`."""
    text = padded({name: value for name, value in arguments.items() if name != "position_ids"}, tokens=tokens)
    positions = counted_positions(text.present)
    first, later = further.get("first", {}), further.get("later", {})
    following = jnp.max(jnp.where(text.present == 1, positions, -1), axis=1) + 1
    behind = jnp.full_like(following, text.tokens.shape[1])
    return Opening(text.tokens, positions, text.present, first, later, following, behind, text.tokens)


def tokens_of(arguments: Arguments) -> Shaped[Array, "B T"]:
    """The tokens of a prompt."""
    return next(arguments[name] for name in TOKENS if name in arguments)


def extended(
    arguments: Mapping[str, Shaped[np.ndarray, "..."]], before: int, behind: int, *, filling: int = 0
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Arguments of rows with more places, which are padding: they hold the token `filling`."""

    def extend(name, value):
        if name not in OF_TOKENS:
            return value
        widths = [(0, 0), (before, behind), *[(0, 0)] * (value.ndim - 2)]
        return np.pad(value, widths, constant_values=filling if name in TOKENS else 0)

    return {name: extend(name, value) for name, value in arguments.items()}


def check_places(tokens: int, vectors: int) -> None:
    """There must be an image token for each vector of the pictures.

    Raises:
      InputError: there are more of one than of the other.
    """
    if tokens != vectors:
        raise InputError(
            f"the text has {tokens} image tokens for the {vectors} vectors of its pictures; each picture needs as many "
            "tokens in its place as it has vectors, which is what the processor writes"
        )


def as_int(x: Shaped[Array, "..."]) -> Int[Array, "..."]:
    """int32, the type of all numbers of ours."""
    return jnp.asarray(x).astype(jnp.int32)


def pictures(pixels: Shaped[Array, "... 3 h w"]) -> Shaped[Array, "... h w 3"]:
    """Channels last, as all pictures here."""
    return jnp.moveaxis(jnp.asarray(pixels), -3, -1)


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
    return {"logits": output.logits(), "last_hidden_state": output.hidden, **states}
