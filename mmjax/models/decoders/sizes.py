"""Published decoder language models, as rows of one table."""

from __future__ import annotations

from mmjax.models.decoders.config import DecoderConfig
from mmjax.ops.rope import RopeScaling


def _llama3(width, layers, heads, mlp_width, *, head_width=128, tied=False, rope_factor=None) -> DecoderConfig:
    scaling = None
    if rope_factor:
        scaling = RopeScaling(
            "llama3", factor=rope_factor, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192
        )
    return DecoderConfig(
        128_256,
        width,
        layers,
        heads,
        head_width,
        mlp_width,
        kv_heads=8,
        norm_eps=1e-5,
        rope_base=500_000.0,
        rope_scaling=scaling,
        tied_embeddings=tied,
    )


def _llama(width, layers, heads, mlp_width, **kwargs) -> DecoderConfig:
    """LLaMA (Touvron et al. 2023), and what is made of it."""
    return DecoderConfig(32_000, width, layers, heads, 128, mlp_width, tied_embeddings=False, **kwargs)


def _qwen2(vocab_size, width, layers, heads, kv_heads, mlp_width, *, tied=False) -> DecoderConfig:
    return DecoderConfig(
        vocab_size,
        width,
        layers,
        heads,
        width // heads,
        mlp_width,
        kv_heads=kv_heads,
        qkv_bias=True,
        rope_base=1e6,
        tied_embeddings=tied,
    )


def _qwen3(width, layers, heads, mlp_width, *, tied=False) -> DecoderConfig:
    return DecoderConfig(
        151_936,
        width,
        layers,
        heads,
        128,
        mlp_width,
        kv_heads=8,
        qk_norm="head",
        rope_base=1e6,
        tied_embeddings=tied,
    )


def _gemma(width, layers, heads, kv_heads, mlp_width, *, vocab_size=256_000, head_width=256, **kwargs) -> DecoderConfig:
    return DecoderConfig(
        vocab_size,
        width,
        layers,
        heads,
        head_width,
        mlp_width,
        kv_heads=kv_heads,
        norm_offset=1.0,
        activation="gelu_tanh",
        embedding_scale=True,
        embedding_init=width**-0.5,
        **kwargs,
    )


def _gemma2(width, layers, heads, kv_heads, mlp_width, *, head_width=256, query_scale=256) -> DecoderConfig:
    return _gemma(
        width,
        layers,
        heads,
        kv_heads,
        mlp_width,
        head_width=head_width,
        norm_position="sandwich",
        attention_scale=query_scale**-0.5,
        attention_softcap=50.0,
        logits_softcap=30.0,
        windows=(4096, None),
    )


def _gemma3(
    width,
    layers,
    heads,
    kv_heads,
    mlp_width,
    *,
    window=1024,
    head_width=256,
    query_scale=256,
    vocab_size=262_208,
    factor=8.0,
) -> DecoderConfig:
    return _gemma(
        width,
        layers,
        heads,
        kv_heads,
        mlp_width,
        vocab_size=vocab_size,
        head_width=head_width,
        norm_position="sandwich",
        qk_norm="head",
        attention_scale=query_scale**-0.5,
        rope_base=1e6,
        rope_local_base=10_000.0,
        rope_scaling=RopeScaling("linear", factor=factor) if factor else None,
        windows=(window,) * 5 + (None,),
    )


def _mistral(vocab_size, window, rope_base) -> DecoderConfig:
    return DecoderConfig(
        vocab_size,
        4096,
        32,
        32,
        128,
        14_336,
        kv_heads=8,
        norm_eps=1e-5,
        rope_base=rope_base,
        windows=(window,),
        tied_embeddings=False,
    )


def _classic(vocab_size, width, layers, heads, **kwargs) -> DecoderConfig:
    """LayerNorm, biases everywhere, a plain feed-forward of four times the width."""
    settings = {
        "norm": "layer",
        "norm_eps": 1e-5,
        "mlp_gated": False,
        "mlp_bias": True,
        "qkv_bias": True,
        "out_bias": True,
    }
    return DecoderConfig(vocab_size, width, layers, heads, width // heads, 4 * width, **(settings | kwargs))


def _gpt2(width, layers, heads) -> DecoderConfig:
    return _classic(50_257, width, layers, heads, activation="gelu_tanh", positions="learned", max_length=1024)


def _neox(vocab_size, width, layers, heads, activation="gelu") -> DecoderConfig:
    return _classic(
        vocab_size,
        width,
        layers,
        heads,
        activation=activation,
        rope_fraction=0.25,
        parallel_residual=True,
        tied_embeddings=False,
    )


def _opt(width, layers, heads) -> DecoderConfig:
    return _classic(
        50_272, width, layers, heads, activation="relu", positions="learned", max_length=2048, position_offset=2
    )


def _mpt(vocab_size, width, layers, heads, **kwargs) -> DecoderConfig:
    plain = {"mlp_bias": False, "qkv_bias": False, "out_bias": False, "norm_bias": False}
    return _classic(vocab_size, width, layers, heads, activation="gelu", positions="alibi", **plain, **kwargs)


def _chinchilla(width, layers, heads) -> DecoderConfig:
    """The language models of Flamingo (Hoffmann et al. 2022, table A9), with rotary positions.

    Their relative positions cost one width x width matrix a layer. Rotary positions have none, so the feed-forward is
    4.5 instead of 4 widths wide: parameters and FLOPs a layer are those of the paper.
    """
    return DecoderConfig(32_000, width, layers, heads, 128, 9 * width // 2, activation="gelu_tanh", mlp_gated=False)


SIZES: dict[str, DecoderConfig] = {
    "llama-7b": _llama(4096, 32, 32, 11_008),
    "llama-65b": _llama(8192, 80, 64, 22_016),
    "vicuna-7b": _llama(4096, 32, 32, 11_008, norm_eps=1e-5),
    "llama-3-8b": _llama3(4096, 32, 32, 14_336),
    "llama-3-70b": _llama3(8192, 80, 64, 28_672),
    "llama-3.1-8b": _llama3(4096, 32, 32, 14_336, rope_factor=8.0),
    "llama-3.2-1b": _llama3(2048, 16, 32, 8192, head_width=64, tied=True, rope_factor=32.0),
    "llama-3.2-3b": _llama3(3072, 28, 24, 8192, tied=True, rope_factor=32.0),
    "qwen2-0.5b": _qwen2(151_936, 896, 24, 14, 2, 4864, tied=True),
    "qwen2-1.5b": _qwen2(151_936, 1536, 28, 12, 2, 8960, tied=True),
    "qwen2-7b": _qwen2(152_064, 3584, 28, 28, 4, 18_944),
    "qwen3-0.6b": _qwen3(1024, 28, 16, 3072, tied=True),
    "qwen3-4b": _qwen3(2560, 36, 32, 9728, tied=True),
    "qwen3-8b": _qwen3(4096, 36, 32, 12_288),
    "gemma-2b": _gemma(2048, 18, 8, 1, 16_384),
    "gemma-7b": _gemma(3072, 28, 16, 16, 24_576),
    "gemma-2-2b": _gemma2(2304, 26, 8, 4, 9216),
    "gemma-2-9b": _gemma2(3584, 42, 16, 8, 14_336),
    "gemma-2-27b": _gemma2(4608, 46, 32, 16, 36_864, head_width=128, query_scale=144),
    "gemma-3-1b": _gemma3(1152, 26, 4, 1, 6912, window=512, vocab_size=262_144, factor=0.0),
    "gemma-3-4b": _gemma3(2560, 34, 8, 4, 10_240),
    "gemma-3-12b": _gemma3(3840, 48, 16, 8, 15_360),
    "gemma-3-27b": _gemma3(5376, 62, 32, 16, 21_504, head_width=128, query_scale=168),
    "mistral-7b": _mistral(32_000, 4096, 10_000.0),
    "mistral-7b-v0.3": _mistral(32_768, None, 1e6),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "pythia-1.4b": _neox(50_304, 2048, 24, 16),
    "pythia-2.8b": _neox(50_304, 2560, 32, 32),
    "gpt-neox-20b": _neox(50_432, 6144, 44, 64, activation="gelu_tanh"),
    "opt-125m": _opt(768, 12, 12),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "mpt-1b": _mpt(50_432, 2048, 24, 16, qk_norm="full", qk_norm_kind="layer"),
    "mpt-7b": _mpt(50_432, 4096, 32, 32),
    "chinchilla-1.4b": _chinchilla(2048, 24, 16),
    "chinchilla-6.8b": _chinchilla(3584, 40, 28),
    "chinchilla-70b": _chinchilla(8192, 80, 64),
}
