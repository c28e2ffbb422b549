"""Prompts of a released checkpoint, one at a time, as a scheduler or a conversation reads them."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mmjax.core.arrays import Bool
from mmjax.core.errors import InputError
from mmjax.decoding.pictures import known_by
from mmjax.decoding.readers import Prepared
from mmjax.decoding.writer import Opening, Writer
from mmjax.interop.calls.adapters import extended, tokens_of
from mmjax.interop.calls.generation import generation_settings
from mmjax.interop.calls.kinds import find_adapter
from mmjax.interop.engine import Pretrained
from mmjax.interop.pretrained import LoadedModel
from mmjax.interop.processing.prompts import PromptProcessor
from mmjax.models.decoders.decoder import Media
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.parallel.sharding import use_mesh
from mmjax.text.tokenizer import byte_pieces

# Results of picture encoders that are kept.
_REMEMBERED = 16


class FolderPrompt(NamedTuple):
    """A text in which the placeholder stands for each of the pictures, or for IDEFICS a list of texts and pictures."""

    text: str | Sequence[Any]
    pictures: tuple[Image.Image, ...] = ()


class FolderReader:
    """Reads `FolderPrompt`s for the model of a folder in the layout of transformers.

    most_pictures: that a prompt may have, where text looks at pictures from outside. What the picture encoder gave is
    kept for the last pictures that were read.
    """

    def __init__(self, loaded: LoadedModel, *, most_pictures: int = 8):
        """Raises InputError for a model that does not continue prompts, or whose folder has no tokenizer."""
        config, family = loaded.pretrained.config, loaded.pretrained.family.model_type
        adapter = find_adapter(config)
        if adapter is None or adapter.prompt is None or isinstance(config, EncoderDecoderConfig):
            raise InputError(f"a model of the family {family} does not continue a prompt, so it cannot be talked to")
        if loaded.tokenizer is None:
            raise InputError(f"{loaded.pretrained.origin.folder} has no tokenizer.json, so it takes no prompts")
        self._loaded, self._adapter, self._most_pictures = loaded, adapter, most_pictures
        self.parameters, self.mesh = loaded.parameters, loaded.mesh
        self._pretrained = _Compiled(loaded.pretrained)
        self.processor = loaded.processor if isinstance(loaded.processor, PromptProcessor) else None
        self.tokenizer = loaded.tokenizer if self.processor is None else self.processor.tokenizer
        self.joined = byte_pieces(self.tokenizer.backend.get_vocab(with_added_tokens=True))
        decoder = getattr(config, "decoder", config)
        self.writable: Bool[np.ndarray, "V"] = np.ones(decoder.vocab_size, bool)
        named = generation_settings(loaded.pretrained.origin.folder, {}).get("eos_token_id")
        self.ends: Mapping[int, str] = {int(token): "eos" for token in np.atleast_1d([] if named is None else named)}
        nothing = {"media": Media(jnp.zeros((1, 0, 1)), jnp.zeros((1, 0), jnp.int32))}
        empty = Opening(*(jnp.zeros((1, 0), jnp.int32),) * 3, nothing, {}, *(jnp.zeros(1, jnp.int32),) * 2, None)
        # Where text looks at pictures from outside, how much it looks at is known with the first of them.
        self.writer: Writer = adapter.writer(loaded.pretrained, empty)
        if self.writer.stop is not None:
            self.ends = {self.writer.stop: "eos"}

    def prepare(self, prompt: FolderPrompt) -> Prepared:
        """Arrays by the reference's names.

        Raises:
          InputError: placeholders and pictures do not go together, or there are too many or none where one is needed.
        """
        arrays = self._loaded.prepare([prompt.text], [list(prompt.pictures)] if prompt.pictures else None)
        [tokens] = np.asarray(tokens_of(arrays))
        pictures = list(prompt.pictures)
        if not isinstance(prompt.text, str):
            pictures += [item for item in prompt.text if not isinstance(item, str)]
        if self.writer.cross is not None and not 0 < len(pictures) <= self._most_pictures:
            raise InputError(
                f"the prompt has {len(pictures)} pictures, and this model reads from 1 to {self._most_pictures} of them"
            )
        return Prepared(tokens, tuple(known_by(np.asarray(picture)) for picture in pictures), arrays)

    def open(self, prepared: Prepared, length: int) -> Opening:
        """One row of `length` tokens, padded on the right; pictures are encoded, if they were not lately."""
        count = len(prepared.tokens)
        arrays = extended(prepared.content, 0, length - count)
        with use_mesh(self.mesh):
            opening = self._adapter.prompt(self._pretrained, self.parameters, arrays, {})
        opening = dataclasses.replace(opening, next_place=jnp.full(1, count, jnp.int32))
        if "media" in opening.first:
            opening = _with_room(opening, len(prepared.pictures), self._most_pictures)
            self.writer = self._adapter.writer(self._loaded.pretrained, opening)
        return opening

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.tokenizer.backend.decode([int(token) for token in tokens], skip_special_tokens=True)


class _Compiled:
    """A pretrained model whose parts are compiled by the shapes of what they are given, and remember it.

    Adapters make openings of arrays that they look at, so they are not compiled as a whole.
    """

    def __init__(self, pretrained: Pretrained):
        self._pretrained, self._model = pretrained, pretrained.model()
        self._results: OrderedDict[Hashable, Any] = OrderedDict()
        self._apply = jax.jit(self._applied, static_argnames=("method", "mutable"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pretrained, name)

    def model(self) -> _Compiled:
        return self

    def apply(self, variables: Mapping[str, Any], *arguments: Any, method: str, mutable: Sequence[str] = ()) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        key = (method, tuple(mutable), structure, *(known_by(np.asarray(leaf)) for leaf in leaves))
        if key not in self._results:
            self._results[key] = self._apply(variables, *arguments, method=method, mutable=tuple(mutable))
            if len(self._results) > _REMEMBERED:
                self._results.popitem(last=False)
        self._results.move_to_end(key)
        return self._results[key]

    def _applied(self, variables, *arguments, method, mutable):
        if not mutable:
            return self._model.apply(variables, *arguments, method=method)
        output, kept = self._model.apply(variables, *arguments, method=method, mutable=list(mutable))
        # Openings are made of what a connector kept; hidden states of the encoder would be large.
        return output, {name: {"connector": own.get("connector")} for name, own in kept.items()}


def _with_room(opening: Opening, pictures: int, most: int) -> Opening:
    """An opening whose media have as many places as `most` pictures take."""
    media, looked_at = opening.first["media"], opening.later["media"].segments
    gap = looked_at.shape[1] // pictures * (most - pictures)

    def wider(x, axis):
        return jnp.pad(x, [(0, gap if place == axis else 0) for place in range(x.ndim)])

    segments = wider(looked_at, 1)
    first = {**opening.first, "media": Media(wider(media.features, 1), segments)}
    later = {**opening.later, "media": Media(None, segments)}
    for rules in (first, later):
        if "media_allowed" in rules:
            rules["media_allowed"] = wider(rules["media_allowed"], 2)
    return dataclasses.replace(opening, first=first, later=later)
