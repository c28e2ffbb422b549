"""Configs both ways: as published on the hub they are rows of our size tables; every row can be written and read."""

from __future__ import annotations

import dataclasses

import pytest

from mmjax.core.errors import InputError
from mmjax.interop.configs import read_config, write_config
from mmjax.interop.families import FAMILIES
from mmjax.interop.families.decoder_settings import shortest_cycle
from mmjax.models.decoders.sizes import SIZES as DECODERS
from mmjax.models.encoders.sizes import SIZES as ENCODERS

LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def classic(width, layers, heads, mlp, **more):
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
    } | more


# What the config.json on the hub says (without what does not concern the model's function) -> row of our tables.
PUBLISHED = {
    "llama-3.1-8b": classic(
        4096, 32, 32, 14336, model_type="llama", num_key_value_heads=8, rms_norm_eps=1e-05, rope_theta=500000.0,
        rope_scaling=LLAMA3_SCALING, tie_word_embeddings=False, vocab_size=128256, hidden_act="silu",
        attention_bias=False, mlp_bias=False, max_position_embeddings=131072,
    ),
    "llama-3.2-1b": classic(
        2048, 16, 32, 8192, model_type="llama", num_key_value_heads=8, rms_norm_eps=1e-05, rope_theta=500000.0,
        rope_scaling=LLAMA3_SCALING | {"factor": 32.0}, tie_word_embeddings=True, vocab_size=128256, head_dim=64,
        hidden_act="silu",
    ),
    "mistral-7b": classic(
        4096, 32, 32, 14336, model_type="mistral", num_key_value_heads=8, rms_norm_eps=1e-05, rope_theta=10000.0,
        sliding_window=4096, tie_word_embeddings=False, vocab_size=32000, hidden_act="silu",
    ),
    "mistral-7b-v0.3": classic(
        4096, 32, 32, 14336, model_type="mistral", num_key_value_heads=8, rms_norm_eps=1e-05, rope_theta=1000000.0,
        sliding_window=None, tie_word_embeddings=False, vocab_size=32768, hidden_act="silu",
    ),
    "qwen2-0.5b": classic(
        896, 24, 14, 4864, model_type="qwen2", num_key_value_heads=2, rms_norm_eps=1e-06, rope_theta=1000000.0,
        sliding_window=131072, use_sliding_window=False, max_window_layers=24, tie_word_embeddings=True,
        vocab_size=151936, hidden_act="silu",
    ),
    "qwen3-0.6b": classic(
        1024, 28, 16, 3072, model_type="qwen3", num_key_value_heads=8, rms_norm_eps=1e-06, rope_theta=1000000,
        sliding_window=None, use_sliding_window=False, max_window_layers=28, tie_word_embeddings=True, head_dim=128,
        vocab_size=151936, hidden_act="silu", attention_bias=False, rope_scaling=None,
    ),
    "gemma-2b": classic(
        2048, 18, 8, 16384, model_type="gemma", num_key_value_heads=1, rms_norm_eps=1e-06, rope_theta=10000.0,
        head_dim=256, vocab_size=256000, hidden_act="gelu", hidden_activation=None, attention_bias=False,
    ),
    "gemma-2-2b": classic(
        2304, 26, 8, 9216, model_type="gemma2", num_key_value_heads=4, rms_norm_eps=1e-06, rope_theta=10000.0,
        head_dim=256, vocab_size=256000, hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh",
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0, query_pre_attn_scalar=256, sliding_window=4096,
        cache_implementation="hybrid",
    ),
    "gemma-2-27b": classic(
        4608, 46, 32, 36864, model_type="gemma2", num_key_value_heads=16, rms_norm_eps=1e-06, rope_theta=10000.0,
        head_dim=128, vocab_size=256000, hidden_activation="gelu_pytorch_tanh", attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0, query_pre_attn_scalar=144, sliding_window=4096,
    ),
    "gemma-3-1b": classic(
        1152, 26, 4, 6912, model_type="gemma3_text", num_key_value_heads=1, rms_norm_eps=1e-06, rope_theta=1000000,
        rope_local_base_freq=10000, rope_scaling=None, head_dim=256, vocab_size=262144, sliding_window=512,
        sliding_window_pattern=6, hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=256,
        attn_logit_softcapping=None, final_logit_softcapping=None,
    ),
    "gemma-3-27b": classic(
        5376, 62, 32, 21504, model_type="gemma3_text", num_key_value_heads=16, head_dim=128,
        query_pre_attn_scalar=168, sliding_window=1024, rope_scaling={"factor": 8.0, "rope_type": "linear"},
    ),
    "gpt2": {
        "model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "n_ctx": 1024,
        "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
        "architectures": ["GPT2LMHeadModel"],
    },
    "pythia-1.4b": classic(
        2048, 24, 16, 8192, model_type="gpt_neox", hidden_act="gelu", layer_norm_eps=1e-05, rotary_emb_base=10000,
        rotary_pct=0.25, tie_word_embeddings=False, use_parallel_residual=True, vocab_size=50304,
    ),
    "gpt-neox-20b": classic(
        6144, 44, 64, 24576, model_type="gpt_neox", hidden_act="gelu_fast", layer_norm_eps=1e-05,
        rotary_emb_base=10000, rotary_pct=0.25, tie_word_embeddings=False, vocab_size=50432,
    ),
    "opt-125m": {
        "model_type": "opt", "activation_function": "relu", "do_layer_norm_before": True, "ffn_dim": 3072,
        "_remove_final_layer_norm": False, "hidden_size": 768, "max_position_embeddings": 2048,
        "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 50272, "word_embed_proj_dim": 768,
    },
    "mpt-7b": {
        "model_type": "mpt", "d_model": 4096, "expansion_ratio": 4, "n_heads": 32, "n_layers": 32, "no_bias": True,
        "vocab_size": 50432, "logit_scale": None, "learned_pos_emb": True, "max_seq_len": 2048,
        "norm_type": "low_precision_layernorm",
        "attn_config": {
            "alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_type": "multihead_attention",
            "clip_qkv": None, "prefix_lm": False, "qk_ln": False, "softmax_scale": None,
        },
    },
    "CLIP-L/14-336": classic(
        1024, 24, 16, 4096, model_type="clip_vision_model", hidden_act="quick_gelu", image_size=336, patch_size=14,
        layer_norm_eps=1e-05, projection_dim=768,
    ),
    "So400m/14-384": classic(
        1152, 27, 16, 4304, model_type="siglip_vision_model", image_size=384, patch_size=14,
    ),
    "DINOv2-B/14": classic(
        768, 12, 12, None, model_type="dinov2", image_size=518, patch_size=14, layerscale_value=1.0, mlp_ratio=4,
        hidden_act="gelu", layer_norm_eps=1e-06, use_swiglu_ffn=False,
    ),
    "DINOv2-g/14": classic(
        1536, 40, 24, None, model_type="dinov2", image_size=518, patch_size=14, mlp_ratio=4, use_swiglu_ffn=True,
    ),
    "DINOv2-L/14-registers": classic(
        1024, 24, 16, None, model_type="dinov2_with_registers", image_size=518, patch_size=14, num_register_tokens=4,
    ),
    "B/16": classic(768, 12, 12, 3072, model_type="vit", image_size=224, patch_size=16, layer_norm_eps=1e-12),
}  # fmt: skip
# Where the published config and our row differ and should: field -> published value.
KNOWN = {
    "B/16": {"norm_eps": 1e-12},  # as published; trained with 1e-6 in JAX
    "DINOv2-B/14": {"mask_token": False},  # seen in the tensors, not in the config
    "DINOv2-g/14": {"mask_token": False},
    "DINOv2-L/14-registers": {"mask_token": False},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_our_rows(name):
    outside = PUBLISHED[name]
    family = FAMILIES[outside["model_type"]]
    expected = {**DECODERS, **ENCODERS}[name]
    found = read_config(family, outside)
    same = dataclasses.replace(expected, **KNOWN.get(name, {}))
    ours, theirs = family.canonical(same), family.canonical(found)
    unequal = {
        field.name: (getattr(ours, field.name), getattr(theirs, field.name))
        for field in dataclasses.fields(ours)
        if field.name not in family.not_exported and getattr(ours, field.name) != getattr(theirs, field.name)
    }
    assert not unequal
    assert write_config(family, found, outside) == outside


FAMILY_OF = {
    "llama": "llama", "vicuna": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma-2b": "gemma", "gemma-7b": "gemma",
    "gemma-2-": "gemma2", "gemma-3": "gemma3_text", "mistral": "mistral", "gpt2": "gpt2", "pythia": "gpt_neox",
    "gpt-neox": "gpt_neox", "opt": "opt", "mpt": "mpt", "Ti": "vit", "S/": "vit", "B/": "vit", "L/": "vit", "H/": "vit",
    "CLIP": "clip_vision_model", "SigLIP": "siglip_vision_model", "So400m": "siglip_vision_model", "DINOv2": "dinov2",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name in (*DECODERS, *ENCODERS) if not name.startswith(("chinchilla", "g/14"))]
)
def test_every_size_can_be_written(name):
    model_type = next(family for start, family in FAMILY_OF.items() if name.startswith(start))
    family = FAMILIES["dinov2_with_registers" if name.endswith("registers") else model_type]
    config = {**DECODERS, **ENCODERS}[name]
    outside = write_config(family, config, {})
    again = read_config(family, outside, {"mask_token": True} if model_type == "dinov2" else {})
    assert write_config(family, again, {}) == outside


def test_what_a_layout_cannot_express_is_named():
    base = DECODERS["llama-3-8b"]
    for change, message in [
        ({"windows": (5, None)}, r"windows=\(5, None\) \(would become \(None,\)\)"),
        ({"norm_offset": 1.0}, "norm_offset"),
        ({"qkv_bias": True}, "one switch"),
        ({"activation": "squared_relu", "logits_softcap": 3.0}, "logits_softcap"),
    ]:
        with pytest.raises(InputError, match=message):
            write_config(FAMILIES["llama"], dataclasses.replace(base, **change), {})
    with pytest.raises(InputError, match="no whole mlp_ratio"):
        write_config(FAMILIES["dinov2"], dataclasses.replace(ENCODERS["DINOv2-B/14"], mlp_width=1000), {})
    with pytest.raises(InputError, match="one sliding window"):
        write_config(FAMILIES["gemma2"], dataclasses.replace(DECODERS["gemma-2-2b"], windows=(3, 4)), {})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama-3.1-8b", {"hidden_size": None}, "wrong kind"),
        ("llama-3.1-8b", {"num_attention_heads": "32"}, "wrong kind|heads"),
        ("llama-3.1-8b", {"hidden_act": "mish"}, "hidden_act='mish'; known are"),
        ("llama-3.1-8b", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ("llama-3.1-8b", {"rope_scaling": LLAMA3_SCALING | {"beta": 1}}, "with beta"),
        ("gemma-2-2b", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma-2-2b", {"layer_types": ["linear_attention"] * 26}, "layer_types"),
        ("opt-125m", {"do_layer_norm_before": False}, "do_layer_norm_before=False; only True"),
        ("opt-125m", {"word_embed_proj_dim": 512}, "word_embed_proj_dim=512; only the value of hidden_size"),
        ("mpt-7b", {"attn_config": {"clip_qkv": 6}}, "clip_qkv"),
        ("B/16", {"image_size": [224, 192]}, "only squares"),
        ("B/16", {"num_channels": 1}, "num_channels=1; only 3"),
        ("gpt2", {"n_head": 7}, "does not divide into 7 heads"),
    ],
)
def test_what_cannot_be_represented_is_refused(name, change, message):
    family = FAMILIES[PUBLISHED[name]["model_type"]]
    with pytest.raises(InputError, match=message):
        read_config(family, PUBLISHED[name] | change)


def test_missing_keys_mean_what_the_reference_takes():
    """As in the text part of a published Gemma-3, which says only what is not the default."""
    family = FAMILIES["gemma3_text"]
    outside = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    found = read_config(family, outside | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}})
    assert family.canonical(found) == family.canonical(dataclasses.replace(DECODERS["gemma-3-4b"], embedding_init=0.02))


def test_only_what_changed_is_written():
    """An imported config keeps its own spelling and the keys that are no business of ours."""
    family, outside = FAMILIES["gemma"], PUBLISHED["gemma-2b"] | {"eos_token_id": 1, "hidden_act": "gelu"}
    config = read_config(family, outside)
    assert write_config(family, config, outside) == outside
    wider = dataclasses.replace(config, mlp_width=100, remat="full")
    assert write_config(family, wider, outside) == outside | {"intermediate_size": 100}


def test_shortest_cycle():
    assert shortest_cycle([4, None, 4, None, 4]) == (4, None)
    assert shortest_cycle([4, 4, 4]) == (4,)
    assert shortest_cycle([None, 4, 4]) == (None, 4, 4)


def test_what_contradicts_a_changed_setting_is_rewritten():
    """transformers 5 writes layer_types, a list as long as the model is deep."""
    family = FAMILIES["qwen2"]
    outside = PUBLISHED["qwen2-0.5b"] | {"layer_types": ["full_attention"] * 24}
    shallow = dataclasses.replace(read_config(family, outside), layers=2)
    written = write_config(family, shallow, outside)
    assert (written["num_hidden_layers"], written["layer_types"]) == (2, ["full_attention"] * 2)
    assert read_config(family, written) == shallow
