"""Q-Formers by the reference's names: the question that they read, and what BLIP-2 and InstructBLIP give of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mmjax.core.arrays import Array, Int
from mmjax.core.errors import InputError
from mmjax.interop.calls.adapters import Arguments, Outputs, as_int
from mmjax.interop.calls.vision import vit_outputs
from mmjax.interop.engine import Pretrained
from mmjax.interop.settings import lookup
from mmjax.models.connectors.q_former import Question, layer_outputs
from mmjax.models.encoders.vit import ViTOutput
from mmjax.models.inline import InlineConfig


def asked(arguments: Arguments) -> Question | None:
    """The question of a call, where it has one; all of it is there unless `qformer_attention_mask` says otherwise."""
    if "qformer_input_ids" not in arguments:
        return None
    tokens = as_int(arguments["qformer_input_ids"])
    present = arguments.get("qformer_attention_mask")
    return Question(tokens, jnp.ones(tokens.shape, bool) if present is None else jnp.asarray(present).astype(bool))


def query_outputs(config: InlineConfig, seen: ViTOutput, hidden: Mapping[str, Any]) -> Outputs:
    """What the encoder and the Q-Former gave; `hidden` is the Q-Former's collection of that name."""
    layers = layer_outputs(config.connector, hidden)
    vision = vit_outputs(config.vision, seen, unnormed=False)
    return {
        **{f"vision_outputs.{name}": value for name, value in vision.items()},
        **{f"qformer_outputs.hidden_states.{number}": x for number, x in enumerate(layers)},
        "qformer_outputs.last_hidden_state": layers[-1],
        "qformer_outputs.pooler_output": layers[-1][:, 0],
    }


def queries_alone(pretrained: Pretrained, rows: int) -> Int[Array, "B T"]:
    """The prompt of a call without tokens: the places of the queries, and the token that begins a text.

    Raises:
      InputError: the checkpoint's config.json does not name that token.
    """
    config = pretrained.config
    begin = lookup(pretrained.origin.config if pretrained.origin else {}, "text_config.bos_token_id")
    if begin is None:
        raise InputError("text_config.bos_token_id is not in config.json, so the prompt must be given as input_ids")
    row = jnp.array([config.image_token] * config.connector.queries + [begin], jnp.int32)
    return jnp.broadcast_to(row[None], (rows, len(row)))
