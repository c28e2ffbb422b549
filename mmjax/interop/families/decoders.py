"""Decoder language models of transformers: Llama-3, Mistral, Qwen, Gemma, GPT-2, GPT-NeoX, OPT, MPT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.interop.families.decoder_settings import (
    canonical,
    flags,
    head_width,
    hidden_width,
    key_value_heads,
    layer_windows,
    layered_rope,
    one_window,
    query_scale,
    rope,
    sectioned_rope,
    shallow_places,
    sizes,
    tied,
    token_ids,
)
from mmjax.interop.families.rows import ACTIVATIONS, attention, from_heads, fused, linear, norm, qkv
from mmjax.interop.family import Family, Row, token_inputs
from mmjax.interop.settings import Setting, agrees, fixed, named, only, same, written
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder


def _sizes(vocab_size: int, hidden_size: int, layers: int, heads: int, **more: int) -> dict[str, int]:
    """Sizes that the reference takes where config.json does not say."""
    keys = {"num_hidden_layers": layers, "num_attention_heads": heads}
    return {"vocab_size": vocab_size, "hidden_size": hidden_size} | keys | more


def decoder_family(
    model_type: str, architecture: str, defaults: Mapping[str, int], settings, rows, **kwargs: Any
) -> Family:
    """A family of `Decoder`."""
    return Family(
        model_type,
        architecture,
        DecoderConfig,
        tuple(settings),
        tuple(rows),
        shallow_places,
        lambda config, dtype: Decoder(config, None, dtype),
        lambda config: token_inputs(),
        defaults=defaults,
        canonical=canonical,
        not_exported=("remat", "embedding_init"),
        writes=True,
        **kwargs,
    )


QKV = qkv("{layer}/attention")

LLAMA_ROWS = [
    Row("{base}embed_tokens.weight", "embedding"),
    Row("{head}lm_head.weight", "unembedding", tied_to="embedding"),
    *norm("{base}norm", "final_norm"),
    *norm("{base}layers.{layer}.input_layernorm", "{layer}/attention_norm"),
    *attention("{base}layers.{layer}.self_attn", "{layer}/attention", "q_proj", "k_proj", "v_proj", "o_proj"),
    *norm("{base}layers.{layer}.self_attn.q_norm", "{layer}/attention/query_norm"),
    *norm("{base}layers.{layer}.self_attn.k_norm", "{layer}/attention/key_norm"),
    *linear("{base}layers.{layer}.mlp.up_proj", "{layer}/mlp/up"),
    *linear("{base}layers.{layer}.mlp.gate_proj", "{layer}/mlp/gate"),
    *linear("{base}layers.{layer}.mlp.down_proj", "{layer}/mlp/down"),
]
PRE_NORM = norm("{base}layers.{layer}.post_attention_layernorm", "{layer}/mlp_norm")
SANDWICH_NORMS = [
    *norm("{base}layers.{layer}.post_attention_layernorm", "{layer}/attention_post_norm"),
    *norm("{base}layers.{layer}.pre_feedforward_layernorm", "{layer}/mlp_norm"),
    *norm("{base}layers.{layer}.post_feedforward_layernorm", "{layer}/mlp_post_norm"),
]
LLAMA_BASE = {"spellings": ({"base": "model."}, {}), "ignored": (r".*rotary_emb\.inv_freq",)}


def _llama_settings(*more: Setting, tie: bool = False, groups: int | None = None, width: int | None = None):
    return (
        *sizes(),
        same("rms_norm_eps", "norm_eps", 1e-6),
        key_value_heads(groups),
        head_width(width),
        tied(tie),
        *more,
    )


def _act(key: str = "hidden_act", default: str = "silu") -> Setting:
    return named(key, "activation", ACTIVATIONS, default)


_QKV_SWITCH = {"attention_bias": ("qkv_bias", "out_bias")}

llama = decoder_family(
    "llama",
    "LlamaForCausalLM",
    _sizes(32_000, 4096, 32, 32, intermediate_size=11_008),
    _llama_settings(_act(), rope(), *flags(_QKV_SWITCH | {"mlp_bias": ("mlp_bias",)}, False)),
    [*LLAMA_ROWS, *PRE_NORM],
    **LLAMA_BASE,
)
mistral = decoder_family(
    "mistral",
    "MistralForCausalLM",
    _sizes(32_000, 4096, 32, 32, intermediate_size=14_336),
    _llama_settings(_act(), rope(), one_window(4096), groups=8),
    [*LLAMA_ROWS, *PRE_NORM],
    **LLAMA_BASE,
)
qwen2 = decoder_family(
    "qwen2",
    "Qwen2ForCausalLM",
    _sizes(151_936, 4096, 32, 32, intermediate_size=22_016),
    _llama_settings(_act(), rope(), layer_windows(None), fixed(qkv_bias=True), groups=32),
    [*LLAMA_ROWS, *PRE_NORM],
    **LLAMA_BASE,
)
qwen3 = decoder_family(
    "qwen3",
    "Qwen3ForCausalLM",
    _sizes(151_936, 4096, 32, 32, intermediate_size=22_016),
    _llama_settings(
        _act(), rope(), layer_windows(None), fixed(qk_norm="head"), *flags(_QKV_SWITCH, False), groups=32, width=128
    ),
    [*LLAMA_ROWS, *PRE_NORM],
    **LLAMA_BASE,
)

qwen2_5_vl_text = decoder_family(
    "qwen2_5_vl_text",
    "Qwen2_5_VLTextModel",
    {
        **_sizes(152_064, 8192, 80, 64, intermediate_size=29_568),
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "max_window_layers": 80,
    },
    (
        *_llama_settings(_act(), sectioned_rope((16, 24, 24)), layer_windows(None), fixed(qkv_bias=True), groups=8),
        head_width(written=False),
        token_ids(bos_token_id=151_643, eos_token_id=151_645),
    ),
    [*LLAMA_ROWS, *PRE_NORM],
    **LLAMA_BASE,
)

ONE_WAY = only("use_bidirectional_attention", None, False)
_GEMMA = (
    fixed(norm_offset=1.0, embedding_scale=True),
    ONE_WAY,
    *flags(_QKV_SWITCH, False),
)
_GEMMA_CAPS = (
    fixed(norm_position="sandwich"),
    query_scale(),
    _act("hidden_activation", "gelu_pytorch_tanh"),
)

gemma = decoder_family(
    "gemma",
    "GemmaForCausalLM",
    _sizes(256_000, 3072, 28, 16, intermediate_size=24_576),
    _llama_settings(
        *_GEMMA,
        rope(),
        # The first configs say "gelu" and mean its approximation by tanh.
        named("hidden_act", "activation", {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh"}, "gelu_pytorch_tanh"),
        tie=True,
        groups=16,
        width=256,
    ),
    [*LLAMA_ROWS, *PRE_NORM],
    **LLAMA_BASE,
)


def _later_gemma(
    model_type: str,
    architecture: str,
    vocab_size: int,
    *more: Setting,
    attention_cap: float | None = None,
    logits_cap: float | None = None,
) -> Family:
    """Gemma-2 and 3; what they differ in are positions, windows, and the caps where config.json does not say."""
    caps = (
        same("attn_logit_softcapping", "attention_softcap", attention_cap),
        same("final_logit_softcapping", "logits_softcap", logits_cap),
    )
    return decoder_family(
        model_type,
        architecture,
        _sizes(vocab_size, 2304, 26, 8, intermediate_size=9216),
        _llama_settings(*_GEMMA, *_GEMMA_CAPS, *caps, *more, tie=True, groups=4, width=256),
        [*LLAMA_ROWS, *SANDWICH_NORMS],
        **LLAMA_BASE,
    )


gemma2 = _later_gemma(
    "gemma2", "Gemma2ForCausalLM", 256_000, rope(), layer_windows(2), attention_cap=50.0, logits_cap=30.0
)
gemma3 = _later_gemma(
    "gemma3_text", "Gemma3ForCausalLM", 262_208, layered_rope(), layer_windows(6), fixed(qk_norm="head")
)


def _gpt2(*more: Setting, rows: Sequence[Row] = ()) -> Family:
    return decoder_family(
        "gpt2",
        "GPT2LMHeadModel",
        {"vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12},
        (
            same("vocab_size", "vocab_size"),
            same("n_embd", "width"),
            same("n_layer", "layers"),
            same("n_head", "heads"),
            same("n_positions", "max_length", 1024),
            same("layer_norm_epsilon", "norm_eps", 1e-5),
            head_width(written=False),
            hidden_width("n_embd", "n_inner"),
            _act("activation_function", "gelu_new"),
            tied(True),
            fixed(norm="layer", mlp_gated=False, mlp_bias=True, qkv_bias=True, out_bias=True, positions="learned"),
            only("scale_attn_weights", True),
            only("scale_attn_by_inverse_layer_idx", False),
            token_ids(bos_token_id=50_256, eos_token_id=50_256),
            *more,
        ),
        [
            Row("{base}wte.weight", "embedding"),
            Row("{base}wpe.weight", "position_embedding"),
            Row("{head}lm_head.weight", "unembedding", tied_to="embedding"),
            *norm("{base}ln_f", "final_norm"),
            *norm("{base}h.{layer}.ln_1", "{layer}/attention_norm"),
            *norm("{base}h.{layer}.ln_2", "{layer}/mlp_norm"),
            *fused("{base}h.{layer}.attn.c_attn", QKV, "D H K -> D (+H K)", "H K -> (+H K)"),
            *linear("{base}h.{layer}.attn.c_proj", "{layer}/attention/out", "H K D -> (H K) D", "D -> D"),
            *linear("{base}h.{layer}.mlp.c_fc", "{layer}/mlp/up", "D M -> D M", "M -> M"),
            *linear("{base}h.{layer}.mlp.c_proj", "{layer}/mlp/down", "M D -> M D", "D -> D"),
            *rows,
        ],
        spellings=({"base": "transformer."}, {}),
        ignored=(r"(.*\.)?h\.\d+\.(attn|crossattention)\.(bias|masked_bias)",),
    )


gpt2 = _gpt2(only("add_cross_attention", False))
# As the decoder of another model, whose pictures it attends to.
_MEDIA = "{base}h.{layer}.crossattention"
_LOOK = "{layer}/encoder_attention"
gpt2_with_encoder = _gpt2(
    fixed(encoder_attention=True),
    only("add_cross_attention", True),
    written(lambda config: {"is_decoder": True}),
    rows=[
        *norm("{base}h.{layer}.ln_cross_attn", f"{_LOOK}_norm"),
        *linear(f"{_MEDIA}.q_attn", f"{_LOOK}/query", "D H K -> D (H K)", "H K -> (H K)"),
        *fused(f"{_MEDIA}.c_attn", qkv(_LOOK)[1:], "D H K -> D (+H K)", "H K -> (+H K)"),
        *linear(f"{_MEDIA}.c_proj", f"{_LOOK}/out", "H K D -> (H K) D", "D -> D"),
    ],
)

gpt_neox = decoder_family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    _sizes(50_432, 6144, 44, 64, intermediate_size=24_576),
    (
        *sizes(),
        same("layer_norm_eps", "norm_eps", 1e-5),
        same("use_parallel_residual", "parallel_residual", True),
        head_width(written=False),
        _act(default="gelu"),
        tied(False),
        rope(base_key="rotary_emb_base", fraction_key="rotary_pct", fraction=0.25),
        fixed(norm="layer", mlp_gated=False, mlp_bias=True),
        *flags(_QKV_SWITCH, True),
    ),
    [
        Row("{base}embed_in.weight", "embedding"),
        Row("{head}{output}.weight", "unembedding", tied_to="embedding"),
        *norm("{base}final_layer_norm", "final_norm"),
        *norm("{base}layers.{layer}.input_layernorm", "{layer}/attention_norm"),
        *norm("{base}layers.{layer}.post_attention_layernorm", "{layer}/mlp_norm"),
        *fused("{base}layers.{layer}.attention.query_key_value", QKV, "D H K -> (H +1 K) D", "H K -> (H +1 K)"),
        *from_heads("{base}layers.{layer}.attention.dense", "{layer}/attention/out"),
        *linear("{base}layers.{layer}.mlp.dense_h_to_4h", "{layer}/mlp/up"),
        *linear("{base}layers.{layer}.mlp.dense_4h_to_h", "{layer}/mlp/down"),
    ],
    spellings=(
        {"base": "gpt_neox.", "output": "embed_out"},
        {"output": "embed_out"},
        {"base": "gpt_neox.", "output": "lm_head"},
    ),
    ignored=(r".*\.attention\.(bias|masked_bias)", r".*rotary_emb\.inv_freq"),
)

opt = decoder_family(
    "opt",
    "OPTForCausalLM",
    _sizes(50_272, 768, 12, 12, ffn_dim=3072),
    (
        *sizes(mlp_width="ffn_dim"),
        same("max_position_embeddings", "max_length", 2048),
        head_width(written=False),
        _act("activation_function", "relu"),
        tied(True),
        *flags({"enable_bias": ("qkv_bias", "out_bias", "mlp_bias")}, True),
        fixed(norm="layer", norm_eps=1e-5, mlp_gated=False, positions="learned", position_offset=2),
        only("do_layer_norm_before", True),
        only("_remove_final_layer_norm", False),
        only("layer_norm_elementwise_affine", True),
        agrees("word_embed_proj_dim", "hidden_size"),
    ),
    [
        Row("{base}embed_tokens.weight", "embedding"),
        Row("{base}embed_positions.weight", "position_embedding"),
        Row("{head}lm_head.weight", "unembedding", tied_to="embedding"),
        *norm("{base}final_layer_norm", "final_norm"),
        *norm("{base}layers.{layer}.self_attn_layer_norm", "{layer}/attention_norm"),
        *norm("{base}layers.{layer}.final_layer_norm", "{layer}/mlp_norm"),
        *attention("{base}layers.{layer}.self_attn", "{layer}/attention", "q_proj", "k_proj", "v_proj", "out_proj"),
        *linear("{base}layers.{layer}.fc1", "{layer}/mlp/up"),
        *linear("{base}layers.{layer}.fc2", "{layer}/mlp/down"),
    ],
    spellings=({"base": "model.decoder."}, {"base": "decoder."}),
)

mpt = decoder_family(
    "mpt",
    "MptForCausalLM",
    {"vocab_size": 50_368, "d_model": 2048, "n_layers": 24, "n_heads": 16},
    (
        same("vocab_size", "vocab_size"),
        same("d_model", "width"),
        same("n_layers", "layers"),
        same("n_heads", "heads"),
        same("layer_norm_epsilon", "norm_eps", 1e-5),
        same("attn_config.softmax_scale", "attention_scale", None),
        named("attn_config.qk_ln", "qk_norm", {False: "none", True: "full"}, False),
        head_width(written=False),
        hidden_width("d_model"),
        tied(True),
        fixed(
            norm="layer", norm_bias=False, qk_norm_kind="layer", mlp_gated=False, activation="gelu", positions="alibi"
        ),
        only("expansion_ratio", 4),
        only("attn_config.alibi", True),
        only("attn_config.alibi_bias_max", 8),
        only("attn_config.clip_qkv", None),
        only("attn_config.prefix_lm", False),
        only("logit_scale", None),
        only("no_bias", True),
    ),
    [
        Row("{base}wte.weight", "embedding"),
        Row("{head}lm_head.weight", "unembedding", tied_to="embedding"),
        *norm("{base}norm_f", "final_norm"),
        *norm("{base}blocks.{layer}.norm_1", "{layer}/attention_norm"),
        *norm("{base}blocks.{layer}.norm_2", "{layer}/mlp_norm"),
        *fused("{base}blocks.{layer}.attn.Wqkv", QKV, "D H K -> (+H K) D", "H K -> (+H K)"),
        *norm("{base}blocks.{layer}.attn.q_ln", "{layer}/attention/query_norm"),
        *norm("{base}blocks.{layer}.attn.k_ln", "{layer}/attention/key_norm"),
        *from_heads("{base}blocks.{layer}.attn.out_proj", "{layer}/attention/out"),
        *linear("{base}blocks.{layer}.ffn.up_proj", "{layer}/mlp/up"),
        *linear("{base}blocks.{layer}.ffn.down_proj", "{layer}/mlp/down"),
    ],
    spellings=({"base": "transformer."}, {}),
)

DECODERS = (llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, gpt2, gpt_neox, opt, mpt)
