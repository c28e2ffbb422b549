"""Language models and text encoders by the reference's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmjax.interop.calls.adapters import Adapter, Outputs, as_int, decoded, decoder_outputs, padded, text_prompt
from mmjax.models.decoders.decoder import layer_outputs
from mmjax.models.two_tower import vector_of
from mmjax.parallel.sharding import nested


def _decoder_forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    counted = pretrained.family.model_type == "opt"  # counts positions from the first token that is there
    text = padded(arguments, counted=counted)
    return decoder_outputs(pretrained.config, None, *decoded(pretrained, parameters, text, method="__call__"))


DECODER = Adapter(
    {"forward": _decoder_forward},
    lambda pretrained, parameters, arguments, kw: text_prompt(arguments),
)


def encoder_outputs(config, output, hidden) -> Outputs:
    """Hidden states and the pooled vector of a text encoder."""
    layers = [x for _, x in layer_outputs(config.decoder, None, hidden)]
    states = {f"hidden_states.{number}": x for number, x in enumerate(layers)}
    pooled = {} if config.pool == "none" else {"pooler_output": vector_of(output)}
    return {"last_hidden_state": output.hidden, **states, **pooled}


def _encoder_forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    text = padded(arguments)
    kinds = as_int(arguments["token_type_ids"]) if "token_type_ids" in arguments else None
    output, kept = pretrained.model().apply(
        nested(parameters),
        text.tokens,
        text.positions,
        text.present,
        kinds,
        text.looking,
        mutable=["hidden"],
    )
    found = encoder_outputs(pretrained.config, output, kept["hidden"]["decoder"])
    found |= {} if output.projected is None else {"text_embeds": output.projected}
    return found | ({} if output.logits is None else {"logits": output.logits})


ENCODER = Adapter({"forward": _encoder_forward})
