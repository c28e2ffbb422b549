"""The models and inputs of `benchmarks.gpu`, the same for both sides."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Text:
    """A Llama, and the rows that it reads; `new` tokens are written after `prompt` others in decoding."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    vocabulary: int
    rows: int
    length: int
    prompt: int
    new: int


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A ViT, and how many pictures it reads."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    image: int
    patch: int
    count: int

    @property
    def tokens(self) -> int:
        """Patches of a picture."""
        return (self.image // self.patch) ** 2


@dataclasses.dataclass(frozen=True)
class Shapes:
    """decoder: Llama-3.2-1B (1.24e9 parameters, tied).  vit: ViT-L/14.

    vlm: CLIP-L/14 at 336 (frozen), LLaVA's projector, and the decoder; a picture a row, then text. The rows are few, as
    both sides lie on one GPU.
    """

    decoder: Text = Text(2048, 16, 32, 8, 64, 8192, 128_256, 2, 2048, 128, 128)
    vit: Pictures = Pictures(1024, 24, 16, 4096, 224, 14, 64)
    vlm_vision: Pictures = Pictures(1024, 24, 16, 4096, 336, 14, 4)
    vlm_length: int = 1024
    prompts: int = 8
    image_token: int = 128_000

    def texts(self, rows: int, length: int) -> np.ndarray:
        """Random tokens `[rows, length]`, none of them the image token."""
        return np.random.default_rng(0).integers(0, self.image_token, (rows, length), np.int32)

    def multimodal(self) -> np.ndarray:
        """Rows of the VLM: the tokens of a picture, then text."""
        tokens = self.texts(self.vlm_vision.count, self.vlm_length)
        tokens[:, : self.vlm_vision.tokens] = self.image_token
        return tokens

    def pixels(self, pictures: Pictures) -> np.ndarray:
        """Random pictures `[count, h, w, 3]`."""
        shape = (pictures.count, pictures.image, pictures.image, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


TINY = Shapes(
    decoder=Text(32, 2, 4, 2, 8, 48, 64, 2, 16, 4, 3),
    vit=Pictures(32, 2, 2, 64, 28, 14, 2),
    vlm_vision=Pictures(32, 3, 2, 64, 28, 14, 2),
    vlm_length=12,
    prompts=2,
    image_token=60,
)
