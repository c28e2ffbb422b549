"""Rows and names that many tables share."""

from __future__ import annotations

from mmjax.interop.family import Row

# Names of activations outside -> here.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "relu2": "squared_relu",
}
PATCHES = "p q C D -> D C p q"


def norm(outside: str, inside: str) -> list[Row]:
    """A norm's weight and bias."""
    return [Row(f"{outside}.weight", f"{inside}/scale"), Row(f"{outside}.bias", f"{inside}/bias")]


def linear(outside: str, inside: str, weight: str = "D M -> M D", bias: str = "M -> M") -> list[Row]:
    """A linear map's weight and bias; torch keeps its weight transposed."""
    return [Row(f"{outside}.weight", f"{inside}/kernel", weight), Row(f"{outside}.bias", f"{inside}/bias", bias)]


def to_heads(outside: str, inside: str) -> list[Row]:
    """The linear map to queries, keys or values."""
    return linear(outside, inside, "D H K -> (H K) D", "H K -> (H K)")


def from_heads(outside: str, inside: str) -> list[Row]:
    """The linear map from all heads together."""
    return linear(outside, inside, "H K D -> D (H K)", "D -> D")


def attention(outside: str, inside: str, query: str, key: str, value: str, out: str) -> list[Row]:
    """Four linear maps, of these names outside."""
    return [
        *to_heads(f"{outside}.{query}", f"{inside}/query"),
        *to_heads(f"{outside}.{key}", f"{inside}/key"),
        *to_heads(f"{outside}.{value}", f"{inside}/value"),
        *from_heads(f"{outside}.{out}", f"{inside}/out"),
    ]


def fused(outside: str, inside: tuple[str, ...], weight: str, bias: str, *, join: str = ".") -> list[Row]:
    """One linear map outside, several here."""
    return [
        Row(f"{outside}{join}weight", tuple(f"{path}/kernel" for path in inside), weight),
        Row(f"{outside}{join}bias", tuple(f"{path}/bias" for path in inside), bias),
    ]


def qkv(inside: str) -> tuple[str, ...]:
    """Paths of the three linear maps of an attention layer."""
    return tuple(f"{inside}/{name}" for name in ("query", "key", "value"))


# A layer of CLIP's towers, SigLIP's, and others that took their names; its attention apart, which some have otherwise.
CLIP_ATTENTION = "{base}encoder.layers.{layer}.self_attn"
CLIP_HEADS = attention(CLIP_ATTENTION, "{layer}/attention", "q_proj", "k_proj", "v_proj", "out_proj")
CLIP_LAYER = [
    *norm("{base}encoder.layers.{layer}.layer_norm1", "{layer}/attention_norm"),
    *norm("{base}encoder.layers.{layer}.layer_norm2", "{layer}/mlp_norm"),
    *linear("{base}encoder.layers.{layer}.mlp.fc1", "{layer}/mlp/up"),
    *linear("{base}encoder.layers.{layer}.mlp.fc2", "{layer}/mlp/down"),
]
