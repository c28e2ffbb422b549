"""Published sizes of vision transformers."""

from __future__ import annotations

from mmjax.models.encoders.vit import ViTConfig


def _vit(width: int, layers: int, heads: int, mlp_width: int, patch: int, **kwargs) -> ViTConfig:
    settings = {"image_size": 224, "class_token": True, "class_position": True, "pool": "class"} | kwargs
    return ViTConfig(patch_size=patch, width=width, layers=layers, heads=heads, mlp_width=mlp_width, **settings)


def _clip(width: int, layers: int, heads: int, patch: int, activation: str, **kwargs) -> ViTConfig:
    """CLIP (Radford et al. 2021): a norm after the embeddings, no bias on the patches."""
    settings = {"patch_bias": False, "pre_norm_embeddings": True, "norm_eps": 1e-5, "activation": activation} | kwargs
    return _vit(width, layers, heads, 4 * width, patch, **settings)


def _siglip(width: int, layers: int, heads: int, mlp_width: int, patch: int, image_size: int) -> ViTConfig:
    """SigLIP (Zhai et al. 2023): no class token, pooled by attention, GELU by tanh."""
    return ViTConfig(image_size, patch, width, layers, heads, mlp_width, activation="gelu_tanh", pool="map")


def _dinov2(width: int, layers: int, heads: int, gated_width: int | None = None, registers: int = 0) -> ViTConfig:
    """DINOv2 (Oquab et al. 2024): LayerScale; g has a SwiGLU feed-forward."""
    return _vit(
        width,
        layers,
        heads,
        gated_width or 4 * width,
        14,
        image_size=518,
        layer_scale=1.0,
        registers=registers,
        position_resize="bicubic_antialias" if registers else "bicubic",
        mask_token=True,
        mlp_gated=gated_width is not None,
        activation="silu" if gated_width else "gelu",
    )


SIZES: dict[str, ViTConfig] = {
    "Ti/16": _vit(192, 12, 3, 768, 16),
    "S/16": _vit(384, 12, 6, 1536, 16),
    "B/16": _vit(768, 12, 12, 3072, 16),
    "L/16": _vit(1024, 24, 16, 4096, 16),
    "H/14": _vit(1280, 32, 16, 5120, 14),
    "g/14": _vit(1408, 40, 16, 6144, 14),
    "CLIP-B/16": _clip(768, 12, 12, 16, "gelu_quick"),
    "CLIP-L/14": _clip(1024, 24, 16, 14, "gelu_quick"),
    "CLIP-L/14-336": _clip(1024, 24, 16, 14, "gelu_quick", image_size=336),
    "CLIP-H/14": _clip(1280, 32, 16, 14, "gelu"),
    "SigLIP-B/16": _siglip(768, 12, 12, 3072, 16, 224),
    "SigLIP-L/16": _siglip(1024, 24, 16, 4096, 16, 256),
    "So400m/14": _siglip(1152, 27, 16, 4304, 14, 224),
    "So400m/14-384": _siglip(1152, 27, 16, 4304, 14, 384),
    "DINOv2-B/14": _dinov2(768, 12, 12),
    "DINOv2-L/14": _dinov2(1024, 24, 16),
    "DINOv2-g/14": _dinov2(1536, 40, 24, gated_width=4096),
    "DINOv2-L/14-registers": _dinov2(1024, 24, 16, registers=4),
}
