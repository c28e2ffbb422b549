"""Decoders against transformers: logits, hidden states, gradients; import and export without a changed bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.interop.engine import load
from mmjax.parallel.sharding import nested
from tests.parity.reference_models import (
    build,
    check_export,
    gradient_error,
    relative_error,
    save_gradients,
    torch,
)
from tests.quick import quick_jit

LENGTH = 23
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


def sizes(width, layers, heads, groups, mlp, **more):
    base = {"vocab_size": 61, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    groups = {"num_key_value_heads": groups} if groups else {}
    return base | groups | {"intermediate_size": mlp} | more


# name -> (model, config, settings, whether gradients are compared too)
CASES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", sizes(36, 3, 6, 2, 44, rope_parameters=LLAMA3_ROPE), True),
    "llama-biased": (
        "LlamaForCausalLM",
        "LlamaConfig",
        sizes(36, 2, 3, 3, 20, head_dim=10, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        False,
    ),
    "llama-headless": ("LlamaModel", "LlamaConfig", sizes(30, 1, 5, 1, 44), False),
    "mistral": ("MistralForCausalLM", "MistralConfig", sizes(42, 3, 7, 1, 30, sliding_window=5, head_dim=6), True),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", sizes(40, 2, 5, 5, 36, tie_word_embeddings=True), True),
    "qwen2-windows": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        sizes(40, 3, 10, 2, 36, use_sliding_window=True, sliding_window=6, max_window_layers=1),
        False,
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", sizes(34, 3, 6, 3, 52, head_dim=14), True),
    "qwen3-yarn": (
        "Qwen3ForCausalLM",
        "Qwen3Config",
        sizes(32, 2, 2, 2, 52, head_dim=16, attention_bias=True, rope_parameters=YARN_ROPE),
        False,
    ),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", sizes(38, 2, 3, 1, 50, head_dim=18), True),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
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
        True,
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
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
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
            },
        ),
        True,
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 61, "n_positions": 30, "n_embd": 35, "n_layer": 3, "n_head": 5},
        True,
    ),
    "gpt2-inner": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": 61,
            "n_positions": 25,
            "n_embd": 33,
            "n_layer": 1,
            "n_head": 3,
            "n_inner": 50,
            "activation_function": "relu",
        },
        False,
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", sizes(48, 3, 3, None, 66), True),
    "gpt-neox-serial": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
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
        False,
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        sizes(35, 3, 5, None, 0, ffn_dim=51, max_position_embeddings=30, word_embed_proj_dim=35),
        True,
    ),
    "opt-unbiased": (
        "OPTForCausalLM",
        "OPTConfig",
        sizes(36, 2, 3, None, 0, ffn_dim=51, max_position_embeddings=40, word_embed_proj_dim=36, enable_bias=False),
        False,
    ),
    "mpt": ("MptForCausalLM", "MptConfig", {"vocab_size": 61, "d_model": 40, "n_layers": 3, "n_heads": 5}, True),
    "mpt-8": (
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": 61, "d_model": 24, "n_layers": 2, "n_heads": 8, "attn_config": {"softmax_scale": 0.3}},
        False,
    ),
}


def make_inputs():
    """Three rows: all of it text, padded on the right, padded on the left."""
    random = np.random.default_rng(0)
    tokens = random.integers(3, 61, (3, LENGTH))  # transformers stops the gradient at a padding token's embedding
    present = np.ones((3, LENGTH), int)
    present[1, -6:] = 0
    present[2, :9] = 0
    positions = np.maximum(np.cumsum(present, axis=1) - 1, 0)
    return tokens, present, positions


def reference_outputs(model, tokens, present, positions):
    """Logits (None without a head) and last hidden states."""
    inputs = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(present)}
    if not type(model).__name__.startswith("Mpt"):
        inputs["position_ids"] = torch.tensor(positions)
    output = model(**inputs, output_hidden_states=True)
    if not hasattr(output, "logits"):
        return None, output.last_hidden_state
    return output.logits, output.hidden_states[-1]


def our_outputs(pretrained, tokens, present, positions, cotangent=None):
    """Logits and hidden states, and the gradient of sum(logits * cotangent)."""
    model, cap = pretrained.model(), pretrained.config.logits_softcap
    arguments = [jnp.asarray(x, jnp.int32) for x in (tokens, positions, present)]

    def loss(parameters):
        output = model.apply(nested(parameters), *arguments)
        logits = output.hidden @ output.unembedding.T
        logits = logits if cap is None else cap * jnp.tanh(logits / cap)
        return (0.0 if cotangent is None else jnp.sum(logits * cotangent)), (logits, output.hidden)

    if cotangent is None:
        return *quick_jit(loss)(pretrained.parameters)[1], None
    gradients, (logits, hidden) = quick_jit(jax.grad(loss, has_aux=True))(pretrained.parameters)
    return logits, hidden, gradients


@pytest.mark.parametrize("name", CASES)
def test_parity(name, tmp_path, record_property):
    class_name, config_name, settings, with_gradients = CASES[name]
    model = build(class_name, config_name, 1 + list(CASES).index(name), **settings)
    model.save_pretrained(tmp_path / "reference")
    tokens, present, positions = make_inputs()
    logits, hidden = reference_outputs(model, tokens, present, positions)
    real = present == 1
    pretrained = load(tmp_path / "reference")

    cotangent = None
    if with_gradients:
        cotangent = np.random.default_rng(1).normal(size=logits.shape).astype(np.float32) * real[..., None]
        (logits * torch.tensor(cotangent)).sum().backward()
    our_logits, our_hidden, gradients = our_outputs(pretrained, tokens, present, positions, cotangent)
    errors = {"hidden": relative_error(our_hidden[real], hidden.detach()[real])}
    if logits is not None:
        errors["logits"] = relative_error(our_logits[real], logits.detach()[real])
    record_property("errors", errors)
    print(name, errors)
    assert max(errors.values()) < 2e-5

    check_export(model, pretrained, tmp_path, lambda m: reference_outputs(m, tokens, present, positions))
    if with_gradients:
        save_gradients(model, tmp_path / "gradients")
        worst = gradient_error(gradients, load(tmp_path / "gradients").parameters)
        print(name, "gradients", worst)
        assert worst < 1e-4
