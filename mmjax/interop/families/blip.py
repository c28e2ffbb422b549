"""BLIP-2 and InstructBLIP of transformers: a Q-Former between a picture encoder and a language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.errors import InputError
from mmjax.interop.families.decoder_settings import without_head
from mmjax.interop.families.decoders import opt
from mmjax.interop.families.inline import LANGUAGE, TEXT_WIDTHS, inline_family, text_width
from mmjax.interop.families.rows import ACTIVATIONS, attention, linear, norm
from mmjax.interop.families.vision import blip_2_vision, instructblip_vision
from mmjax.interop.family import Family, Part, Place, Row, Spelling, decoder_places
from mmjax.interop.settings import Setting, Tree, fixed, named, only, same, within, written
from mmjax.models.inline import InlineConfig

# ---- The Q-Former.

_BLOCK = "qformer.encoder.layer.{block}"
_BERT = ("attention.query", "attention.key", "attention.value", "output.dense")
_QUERY_ROWS = [
    Row("query_tokens", "connector/queries", "R D -> 1 R D"),
    *attention(f"{_BLOCK}.attention", "{block}/attention", *_BERT),
    *norm(f"{_BLOCK}.attention.output.LayerNorm", "{block}/attention_norm"),
    *attention(f"{_BLOCK}.crossattention", "{block}/cross_attention", *_BERT),
    *norm(f"{_BLOCK}.crossattention.output.LayerNorm", "{block}/cross_attention_norm"),
    *linear(f"{_BLOCK}.intermediate_query.dense", "{block}/mlp/up"),
    *linear(f"{_BLOCK}.output_query.dense", "{block}/mlp/down"),
    *norm(f"{_BLOCK}.output_query.LayerNorm", "{block}/mlp_norm"),
    *linear("language_projection", "connector/out"),
]
_QUESTION_ROWS = [
    Row("qformer.embeddings.word_embeddings.weight", "connector/embedding"),
    Row("qformer.embeddings.position_embeddings.weight", "connector/position_embedding"),
    *linear(f"{_BLOCK}.intermediate.dense", "{block}/text_mlp/up"),
    *linear(f"{_BLOCK}.output.dense", "{block}/text_mlp/down"),
    *norm(f"{_BLOCK}.output.LayerNorm", "{block}/text_mlp_norm"),
]


_QUERY_SETTINGS = within(
    "connector",
    (
        same("num_query_tokens", "queries", 32),
        same("qformer_config.hidden_size", "query_width", 768),
        same("qformer_config.num_hidden_layers", "layers", 12),
        same("qformer_config.num_attention_heads", "heads", 12),
        same("qformer_config.intermediate_size", "mlp_width", 3072),
        same("qformer_config.cross_attention_frequency", "cross_every", 2),
        same("qformer_config.layer_norm_eps", "norm_eps", 1e-12),
        named("qformer_config.hidden_act", "activation", ACTIVATIONS, "gelu"),
        only("qformer_config.position_embedding_type", "absolute", None),
    ),
)


def _query_places(config: InlineConfig) -> Mapping[str, Mapping[int, Place]]:
    queries = config.connector
    return {"block": decoder_places(queries.layers, queries.superblocks, queries.cross_every, "connector/")}


# ---- The whole.


def _image_token() -> Setting:
    """image_token_index, which the first checkpoints of the family lack: their queries always stood before the text."""

    def read(outside: Tree) -> dict[str, Any]:
        token = outside.get("image_token_index", outside.get("image_token_id"))
        if token is None:
            raise InputError(
                "config.json has no image_token_index, the token in whose places pictures stand; add one to the "
                "vocabulary where it has none to spare, and name it there"
            )
        return {"image_token": token}

    return Setting(read, lambda config: {"image_token_index": config.image_token})


def _spellings(language: Family) -> tuple[Spelling, ...]:
    """The language model's own, below its prefix."""
    prefix = "language_model."
    return tuple(
        {
            **{f"decoder.{name}": written_as for name, written_as in own.items()},
            "decoder.base": prefix + own.get("base", ""),
            "decoder.head": prefix,
            "vision.base": "vision_model.",
        }
        for own in language.spellings
    )


def _family(model_type: str, architecture: str, vision: Family, rows: Sequence[Row], *more: Setting) -> Family:
    settings = (
        _image_token(),
        fixed(sees="past"),
        only("use_decoder_only_language_model", True),
        without_head(),
        written(lambda config: {"qformer_config.encoder_hidden_size": config.vision.width}),
        *_QUERY_SETTINGS,
        *more,
    )

    def by_language(family: Family) -> Family:
        language = family.parts[1].family
        default = next(language.defaults[key] for key in TEXT_WIDTHS if key in language.defaults)
        return dataclasses.replace(family, spellings=_spellings(language), settings=(*settings, text_width(default)))

    return inline_family(
        model_type,
        architecture,
        Part("vision", "vision_config", (vision,)),
        Part("decoder", "text_config", (opt, *LANGUAGE)),
        settings,
        (*_QUERY_ROWS, *rows),
        _spellings(opt),
        _query_places,
        by_parts=by_language,
        ignored=(r"qformer\.embeddings\.position_ids",),
    )


blip_2 = _family(
    "blip-2",
    "Blip2ForConditionalGeneration",
    blip_2_vision,
    norm("qformer.layernorm", "connector/embedding_norm"),
    only("qformer_config.model_type", "blip_2_qformer"),
    only("qformer_config.use_qformer_text_input", False),
    *within("connector", (fixed(vocab_size=0, max_length=0),)),
)
instructblip = _family(
    "instructblip",
    "InstructBlipForConditionalGeneration",
    instructblip_vision,
    [*norm("qformer.embeddings.layernorm", "connector/embedding_norm"), *_QUESTION_ROWS],
    only("qformer_config.model_type", "instructblip_qformer"),
    *within(
        "connector",
        (
            same("qformer_config.vocab_size", "vocab_size", 30_522),
            same("qformer_config.max_position_embeddings", "max_length", 512),
        ),
    ),
)

BLIP = (blip_2, instructblip)
