"""Models of text alone: decoders, and BERT."""

from __future__ import annotations

import functools

import numpy as np

from third_party.oracles.calls import Settings, decoder_calls, searched
from third_party.oracles.rows import SPECIAL, token_rows, without
from third_party.oracles.variants import HIDDEN, Call, Variant

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 300.0,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
    "beta_fast": 4.0,
}
VOCABULARY = {"vocab_size": 61, **SPECIAL}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
}


def sizes(width: int, layers: int, heads: int, groups: int | None, mlp: int | None, **more) -> dict:
    base = {**VOCABULARY, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    groups = {"num_key_value_heads": groups} if groups else {}
    return base | groups | ({"intermediate_size": mlp} if mlp else {}) | more


def _opt(width: int, layers: int, heads: int, positions: int, **more) -> dict:
    places = {"max_position_embeddings": positions, "word_embed_proj_dim": width}
    return sizes(width, layers, heads, None, None, ffn_dim=51, **places, **more)


_SETTINGS = {
    "llama": (
        ("LlamaForCausalLM", sizes(36, 3, 6, 2, 44, rope_parameters=LLAMA3_ROPE)),
        (
            "LlamaForCausalLM",
            sizes(36, 2, 3, 3, 20, head_dim=10, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        ),
        ("LlamaModel", sizes(30, 1, 5, 1, 44)),
    ),
    "mistral": (
        ("MistralForCausalLM", sizes(42, 3, 7, 1, 30, sliding_window=5, head_dim=6)),
        ("MistralForCausalLM", sizes(40, 2, 10, 5, 50, sliding_window=None)),
    ),
    "qwen2": (
        ("Qwen2ForCausalLM", sizes(40, 2, 5, 5, 36, tie_word_embeddings=True)),
        (
            "Qwen2ForCausalLM",
            sizes(40, 3, 10, 2, 36, use_sliding_window=True, sliding_window=6, max_window_layers=1),
        ),
    ),
    "qwen3": (
        ("Qwen3ForCausalLM", sizes(34, 3, 6, 3, 52, head_dim=14)),
        ("Qwen3ForCausalLM", sizes(32, 2, 2, 2, 52, head_dim=16, attention_bias=True, rope_parameters=YARN_ROPE)),
    ),
    "gemma": (
        ("GemmaForCausalLM", sizes(38, 2, 3, 1, 50, head_dim=18)),
        ("GemmaForCausalLM", sizes(35, 3, 5, 5, 26, head_dim=8)),
    ),
    "gemma2": (
        (
            "Gemma2ForCausalLM",
            sizes(
                36,
                5,
                6,
                2,
                46,
                head_dim=14,
                sliding_window=6,
                query_pre_attn_scalar=11,
                attn_logit_softcapping=3.0,
                final_logit_softcapping=2.0,
            ),
        ),
        (
            "Gemma2ForCausalLM",
            sizes(35, 2, 5, 1, 30, head_dim=8, attn_logit_softcapping=None, final_logit_softcapping=None),
        ),
    ),
    "gemma3_text": (
        (
            "Gemma3ForCausalLM",
            sizes(
                36,
                5,
                6,
                3,
                46,
                head_dim=14,
                sliding_window=6,
                query_pre_attn_scalar=11,
                layer_types=["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 2,
                rope_parameters=GEMMA3_ROPE,
            ),
        ),
        ("Gemma3ForCausalLM", sizes(35, 3, 5, 1, 30, head_dim=8, sliding_window=4, sliding_window_pattern=3)),
    ),
    "gpt2": (
        ("GPT2LMHeadModel", {**VOCABULARY, "n_positions": 30, "n_embd": 35, "n_layer": 3, "n_head": 5}),
        (
            "GPT2LMHeadModel",
            {
                **VOCABULARY,
                "n_positions": 25,
                "n_embd": 33,
                "n_layer": 1,
                "n_head": 3,
                "n_inner": 50,
                "activation_function": "relu",
            },
        ),
    ),
    "gpt_neox": (
        ("GPTNeoXForCausalLM", sizes(48, 3, 3, None, 66)),
        (
            "GPTNeoXForCausalLM",
            sizes(
                60,
                2,
                5,
                None,
                66,
                use_parallel_residual=False,
                attention_bias=False,
                hidden_act="gelu_new",
                rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
            ),
        ),
    ),
    "opt": (
        ("OPTForCausalLM", _opt(35, 3, 5, 30)),
        ("OPTForCausalLM", _opt(36, 2, 3, 40, enable_bias=False)),
    ),
    "mpt": (
        ("MptForCausalLM", {**VOCABULARY, "d_model": 40, "n_layers": 3, "n_heads": 5}),
        (
            "MptForCausalLM",
            {**VOCABULARY, "d_model": 24, "n_layers": 2, "n_heads": 8, "attn_config": {"softmax_scale": 0.3}},
        ),
    ),
}
_BERT = (
    ("BertModel", sizes(35, 3, 5, None, 22, max_position_embeddings=30), "whole/pooler_output"),
    (
        "BertForMaskedLM",
        sizes(36, 2, 3, None, 50, max_position_embeddings=25, hidden_act="relu", type_vocab_size=3),
        "whole/logits",
    ),
)


def _bert_calls(random: np.random.Generator, settings: Settings) -> list[Call]:
    """Pairs of texts without padding, one padded on the right, one without types and padded on the left."""

    def pairs(*lengths):
        rows = token_rows(random, lengths)
        second = np.arange(rows["input_ids"].shape[1]) >= np.array(lengths)[:, None] // 2
        return without(rows, "position_ids") | {"token_type_ids": second * rows["attention_mask"]}

    return [
        Call("whole", pairs(17, 17, 17), kw=HIDDEN),
        Call("right", pairs(23, 17, 9), kw=HIDDEN),
        Call("left", token_rows(random, (14, 23, 19), side="left"), kw=HIDDEN),
    ]


def _mistral_calls(random: np.random.Generator, settings: Settings) -> list[Call]:
    """And a search through a sliding window."""
    calls = decoder_calls(True, True, random, settings)
    return [*calls, searched(calls)]


def _decoder(class_name: str, settings: Settings) -> Variant:
    has_head = not class_name.endswith("Model") or class_name == "GPT2LMHeadModel"
    calls = functools.partial(decoder_calls, not class_name.startswith("Mpt"), has_head)
    if class_name == "MistralForCausalLM":
        calls = _mistral_calls
    return Variant(class_name, settings, calls, "whole/logits" if has_head else "whole/last_hidden_state")


FAMILIES = {
    **{family: tuple(_decoder(*row) for row in rows) for family, rows in _SETTINGS.items()},
    "bert": tuple(Variant(class_name, settings, _bert_calls, grads_of) for class_name, settings, grads_of in _BERT),
}
