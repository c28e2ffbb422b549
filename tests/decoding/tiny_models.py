"""Flamingos small enough to compile in a second, and a tokenizer of letters whose every text is one token a letter."""

from __future__ import annotations

import dataclasses
import functools
import string
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.batch import Batch
from mmjax.core.example import Media, Text
from mmjax.decoding.prompt import Prompt
from mmjax.layers.attention import AttentionConfig
from mmjax.models.connectors.resampler import ResamplerConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import Flamingo, FlamingoConfig
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.parallel.sharding import abstract_parameters, nested
from mmjax.text.prompt import tokenize

SIDE = 8
VOCABULARY = 32  # rounded up from the tokenizer's 31
LONGEST, MOST_PICTURES = 32, 4  # of a row of the plain forward pass


class LetterTokenizer:
    """Specials 0 to 4, then `a` to `z`. `ends` makes a letter the end of a chunk, so that a random model writes it."""

    def __init__(self, ends: str = ""):
        self.special = {"pad": 0, "bos": 1, "eos": 2, "image": 3, "end_of_chunk": 4}
        self.vocab_size = 5 + len(string.ascii_lowercase)
        self.byte_pieces = frozenset()
        if ends:
            self.special["end_of_chunk"] = self.encode(ends)[0]

    def encode(self, text: str) -> list[int]:
        return [5 + string.ascii_lowercase.index(letter) for letter in text]

    def decode(self, ids: Iterable[int]) -> str:
        hidden = set(self.special.values())
        return "".join(string.ascii_lowercase[int(number) - 5] for number in ids if int(number) not in hidden)


def tiny_model(**decoder) -> Flamingo:
    """A Flamingo over pictures of 8x8, with `decoder` settings changed.

    Embeddings are not tied: a random model with tied ones repeats itself.
    """
    language = DecoderConfig(VOCABULARY, 16, 2, 4, 8, 32, kv_heads=2, tied_embeddings=False)
    config = FlamingoConfig(
        ViTConfig(SIDE, 4, 16, 1, 2, 32),
        ResamplerConfig(16, 1, 2, 8, 2, 32),
        dataclasses.replace(language, **decoder),
        GatedCrossAttentionConfig(AttentionConfig(2, 8), 32, every=2, gate_init=0.5),
    )
    return Flamingo(config, jnp.float32)


def random_parameters(model: Flamingo, seed: int = 0) -> dict[str, jax.Array]:
    """Parameters by path, far from a model's start, so that every part of it says something."""
    batch = _batch(np.zeros((1, 2), np.int32), np.zeros((1, 2), np.int32), np.zeros((1, 1, SIDE, SIDE, 3), np.uint8))
    shapes, _ = abstract_parameters(model.init, jax.random.key(0), batch)
    random = np.random.default_rng(seed)
    return {
        path: jnp.asarray(float(path.endswith("scale")) + 0.4 * random.normal(size=shape.shape), jnp.float32)
        for path, shape in sorted(shapes.items())
    }


def picture(seed: int) -> Media:
    """A picture of noise."""
    return Media((np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8),))


def random_prompt(seed: int, chunks: int = 2, letters: int = 4) -> Prompt:
    """`chunks` pictures, each with some letters."""
    random = np.random.default_rng(seed)
    segments = []
    for chunk in range(chunks):
        text = "".join(random.choice(list(string.ascii_lowercase), letters))
        segments += [picture(int(random.integers(1000))), Text(text, end_of_chunk=chunk < chunks - 1)]
    return Prompt(tuple(segments))


def uncached_logits(model: Flamingo, params: dict, tokenizer: LetterTokenizer, prompt: Prompt, more=()) -> np.ndarray:
    """Logits [T, V] of the prompt's tokens and of `more` tokens after it, by one plain forward pass of one row."""
    text = tokenize(prompt.segments, tokenizer, eos=False)
    tokens = np.concatenate([text.tokens, np.asarray(more, np.int32)])
    media_index = np.concatenate([text.media_number, np.full(len(more), text.images, np.int32)])
    room = LONGEST - len(tokens)
    images = np.zeros((1, MOST_PICTURES, SIDE, SIDE, 3), np.uint8)
    for place, medium in enumerate(prompt.media):
        images[0, place] = medium.load()[0]
    batch = _batch(np.pad(tokens, (0, room))[None], np.pad(media_index, (0, room))[None], images)
    batch = batch.replace(
        segment_ids=(np.arange(LONGEST) < len(tokens)).astype(np.int32)[None],
        image_mask=(np.arange(MOST_PICTURES) < text.images)[None],
    )
    hidden, unembedding = _forward(model, params, batch)
    scores = np.asarray(hidden[0, : len(tokens)], np.float64) @ np.asarray(unembedding, np.float64).T
    softcap = model.config.decoder.logits_softcap
    return scores if softcap is None else softcap * np.tanh(scores / softcap)


@functools.partial(jax.jit, static_argnames="model")
def _forward(model, params, batch):
    output = model.apply(nested(params), batch)
    return output.hidden, output.unembedding


def _batch(tokens, media_index, images):
    return Batch(
        tokens=tokens,
        positions=np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32)[None], tokens.shape),
        segment_ids=np.ones_like(tokens),
        targets=np.zeros_like(tokens),
        loss_weights=np.zeros(tokens.shape, np.float32),
        media_index=media_index,
        images=images,
        image_mask=np.ones(images.shape[:2], bool),
        dataset_ids=np.zeros(1, np.int32),
    )


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """In float64, over the last axis."""
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
