"""Models whose pictures of any size are patches in one row (Qwen2.5-VL), by the reference's names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mmjax.decoding.writer import Decode, Opening
from mmjax.interop.calls.adapters import (
    Adapter,
    Outputs,
    as_int,
    check_places,
    decoded,
    decoder_outputs,
    padded,
    text_prompt,
    writer_of,
)
from mmjax.interop.calls.inline import placed
from mmjax.models.decoders.decoder import Inline
from mmjax.models.encoders.window_vit import pack_patches
from mmjax.models.grid_positions import IMAGE, VIDEO, grid_positions
from mmjax.parallel.sharding import nested

# The reference's names of the patches and the grids.
_PATCHES = {IMAGE: ("pixel_values", "image_grid_thw"), VIDEO: ("pixel_values_videos", "video_grid_thw")}


def _encode(pretrained, parameters, arguments, kind: int):
    """The features of all pictures, or of all videos, and what the encoder saw, with its row; None without any."""
    patches, grids = _PATCHES[kind]
    if patches not in arguments:
        return None
    packed = pack_patches(pretrained.config.vision, jnp.asarray(arguments[patches]), np.asarray(arguments[grids]))
    features, seen = pretrained.model().apply(nested(parameters), packed, method="encode")
    return features, seen.features, packed


def _inline(pretrained, parameters, arguments) -> Inline | None:
    """Pictures and videos in the places of their tokens."""
    tokens, config, found = as_int(arguments["input_ids"]), pretrained.config, []
    for kind, token in ((IMAGE, config.image_token), (VIDEO, config.video_token)):
        encoded = _encode(pretrained, parameters, arguments, kind)
        if encoded is not None:
            check_places(int(np.sum(np.asarray(arguments["input_ids"]) == token)), encoded[0][..., 0].size)
            found.append(placed(dataclasses.replace(config, image_token=token), encoded[0], tokens))
    if len(found) < 2:
        return found[0] if found else None
    first, second = found
    return Inline(jnp.where((first.index > 0)[:, :, None], first.features, second.features), first.index + second.index)


def _rope_positions(pretrained, arguments, kw: Mapping[str, Any]):
    """Positions along three axes, where the call says which tokens are pictures; else None."""
    grids = {kind: np.asarray(arguments[name]) for kind, (_, name) in _PATCHES.items() if name in arguments}
    if "mm_token_type_ids" not in arguments or not grids:
        return None
    vision = pretrained.config.vision
    positions = grid_positions(
        np.asarray(arguments["mm_token_type_ids"]),
        grids,
        merge=vision.merge,
        present=np.asarray(arguments["attention_mask"]) if "attention_mask" in arguments else None,
        tokens_per_second=vision.tokens_per_second,
        seconds=arguments.get("second_per_grid_ts", kw.get("second_per_grid_ts")),
    )
    return jnp.asarray(positions)


def _forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    text = padded(arguments)
    output = decoded(
        pretrained,
        parameters,
        text,
        inline=_inline(pretrained, parameters, arguments),
        rope_positions=_rope_positions(pretrained, arguments, kw),
    )
    return decoder_outputs(pretrained.config.decoder, None, *output)


def _features(pretrained, parameters, arguments, kw: Mapping[str, Any], *, kind: int) -> Outputs:
    """Features of each picture or video; the reference leaves its patches in an order of windows."""
    features, seen, packed = _encode(pretrained, parameters, arguments, kind)
    by_window = jnp.argsort(packed.windows[0], stable=True)
    grids = np.asarray(arguments[_PATCHES[kind][1]])
    ends = np.cumsum(grids.prod(axis=1) // pretrained.config.vision.merge**2)[:-1]
    each = {f"pooler_output.{number}": vectors for number, vectors in enumerate(jnp.split(features[0], ends))}
    return {"last_hidden_state": seen[0, by_window], **each}


def _prompt(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Opening:
    prompt = text_prompt(arguments, first={"inline": _inline(pretrained, parameters, arguments)})
    turned_by = _rope_positions(pretrained, arguments, kw)
    if turned_by is None:
        return prompt
    # What is written goes on behind the highest position of the row, along all axes alike.
    highest = jnp.max(jnp.where(prompt.segments[:, :, None] == 1, turned_by, -1), axis=(1, 2))
    return dataclasses.replace(
        prompt,
        first={**prompt.first, "rope_positions": turned_by},
        later={"rope_shift": highest + 1 - prompt.next_position},
    )


class _Decode(Decode):
    """With rotary positions that are so much less than those in the row, where that is said."""

    def __call__(self, parameters, tokens, positions, segments, *, rope_shift=None, **further):
        if rope_shift is not None:
            further["rope_positions"] = positions + rope_shift[:, None]
        return super().__call__(parameters, tokens, positions, segments, **further)


PACKED = Adapter(
    {
        "forward": _forward,
        "get_image_features": functools.partial(_features, kind=IMAGE),
        "get_video_features": functools.partial(_features, kind=VIDEO),
    },
    _prompt,
    functools.partial(writer_of, decode=_Decode),
)
