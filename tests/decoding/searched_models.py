"""Small random models of the reference, or of ours alone, that write: with the prompts they go on from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.interop.calls.adapters import pictures
from mmjax.interop.calls.caller import Caller
from mmjax.interop.calls.generation import Written, write
from mmjax.interop.engine import Pretrained, load
from mmjax.parallel.sharding import nested
from tests.parity.reference_models import calls_of, hugging_face, torch, transformers
from third_party.oracles import FAMILIES
from third_party.oracles.calls import image_text_calls
from third_party.oracles.cross import IDEFICS
from third_party.oracles.folders import randomize
from third_party.oracles.inline import BLIP, LLAVA, PALIGEMMA

KEPT = Path(__file__).parents[1] / "parity" / "open_flamingo" / "0"
LAYOUTS = {"idefics": IDEFICS, "llava": LLAVA, "paligemma": PALIGEMMA, "blip_2": BLIP}


@dataclasses.dataclass
class Pair:
    """A model of the reference and ours of the same parameters, with padded prompts.

    theirs(**settings) -> what `generate` returns, as a dict.
    """

    theirs: Callable[..., Any]
    pretrained: Pretrained
    arrays: dict[str, np.ndarray]

    def __post_init__(self):
        self.opening, self.writer = Caller(self.pretrained).open(self.arrays, {})

    def ours(self, **settings: Any) -> Written:
        """What we write with these settings."""
        return write(self.writer, self.pretrained.parameters, self.opening, settings)


def make_pair(family: str, folder: Path, seed: int = 11) -> Pair:
    """A pair of the family's first variant; rows are padded on the left, and images stand in most of them."""
    if family == "open_flamingo":
        pretrained = load(KEPT)
        [call] = calls_of(KEPT, fn="generate")
        return Pair(_Uncached(pretrained, call.arrays).write, pretrained, dict(call.arrays))
    variant = FAMILIES[family][0]
    random = np.random.default_rng(seed)
    if family in LAYOUTS:
        calls = image_text_calls(LAYOUTS[family], random, variant.settings)
    else:
        calls = variant.calls(random, variant.settings)
    arrays = dict(next(call for call in calls if call.fn == "generate").arrays)
    if family == "paligemma":
        arrays["token_type_ids"] = np.zeros_like(arrays["input_ids"])  # a prompt is prefix throughout
    torch.manual_seed(seed)
    model = hugging_face.build(variant.class_name, variant.settings).float().eval()
    randomize(model, seed)
    hugging_face.save(model, folder)
    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Pair(lambda **settings: model.generate(**given, **settings), load(folder), arrays)


class _Uncached(transformers.PreTrainedModel, transformers.GenerationMixin):
    """The reference's search over our plain forward pass without a cache, of rows moved to the left."""

    main_input_name = "input_ids"
    ROOM = 32

    def __init__(self, pretrained: Pretrained, arrays: dict[str, np.ndarray]):
        config = transformers.PreTrainedConfig()
        config.vocab_size = pretrained.config.decoder.vocab_size
        super().__init__(config)
        self.nothing = torch.nn.Parameter(torch.zeros(1))  # by which the reference knows its device
        self._arrays = arrays
        self._ours, self._image = pretrained.parameters, pretrained.config.image_token
        self._forward = jax.jit(functools.partial(_logits, pretrained.model()))

    def write(self, **settings: Any) -> Any:
        tokens, mask = (torch.from_numpy(self._arrays[name]) for name in ("lang_x", "attention_mask"))
        rows = torch.arange(len(tokens))
        return self.generate(input_ids=tokens, attention_mask=mask, rows=rows, use_cache=False, **settings)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, rows=None, **_):
        return {"input_ids": input_ids, "attention_mask": attention_mask, "rows": rows}

    def forward(self, input_ids, attention_mask, rows, **_):
        tokens, mask = np.zeros((2, len(rows), self.ROOM), np.int64)
        for row, (own, there) in enumerate(zip(input_ids.numpy(), attention_mask.numpy(), strict=True)):
            own = own[there > 0]
            tokens[row, : len(own)], mask[row, : len(own)] = own, 1
        # An image's token that is written shows no image.
        given = np.arange(self.ROOM) < self._arrays["attention_mask"].sum(1)[rows.numpy()][:, None]
        looks = np.cumsum(given & (tokens == self._image), axis=1)
        arrays = (self._arrays["vision_x"][rows.numpy()], *(x.astype(np.int32) for x in (tokens, mask, looks)))
        logits = np.asarray(self._forward(self._ours, *arrays))
        last = logits[np.arange(len(rows)), mask.sum(1) - 1]
        return transformers.modeling_outputs.CausalLMOutput(logits=torch.from_numpy(last)[:, None])


def _logits(model, parameters, pixels, tokens, mask, looks):
    images = pictures(pixels)
    media = model.apply(nested(parameters), images, jnp.ones(images.shape[:-3], bool), method="encode_normalized")
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    return model.apply(nested(parameters), tokens, positions, mask, media, looks, method="decode").logits()
