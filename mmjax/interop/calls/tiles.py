"""What the reference does with pictures before and after the encoder where they are tiles, or rows have fewer of them
than others."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from mmjax.interop.calls.adapters import Arguments, pictures
from mmjax.models.connectors.tiles import tile_count, tile_order
from mmjax.models.inline import InlineConfig
from mmjax.parallel.sharding import nested


def seen_pictures(config: InlineConfig, arguments: Arguments) -> tuple[Any, Any]:
    """The pictures that the encoder sees `[M, h, w, 3]`, and which of their patches `[M, P]` are no padding (or None).

    pixel_values are pictures, tiles of pictures `[N, tiles, 3, h, w]` that may have fewer than the most, or pictures of
    rows `[B, N, 3, h, w]`, where those that are zero throughout are none.
    """
    pixels = pictures(arguments["pixel_values"])
    if pixels.ndim == 4:
        return pixels, None
    if config.tiles is not None:
        tile, resolutions = config.vision.image_size, config.tiles.resolutions
        counts = [tile_count(size, resolutions, tile) for size in _sizes(arguments)]
        return jnp.concatenate([tiles[:count] for tiles, count in zip(pixels, counts, strict=True)]), None
    empty = ~jnp.any(pixels != 0, axis=(2, 3, 4)).reshape(-1)
    order = jnp.argsort(empty, stable=True)[: sum(_pictures_of_rows(arguments))]
    present = _present(config, arguments)
    pixels = pixels.reshape(-1, *pixels.shape[2:])[order]
    return pixels, None if present is None else present[order]


def standing(pretrained, parameters, features, arguments: Arguments) -> list[Any]:
    """The vectors `[n, D]` that stand in the text, of each picture, or of all pictures of a row where the reference
    gives rows."""
    config = pretrained.config
    if config.tiles is not None:
        orders = tile_order(
            _sizes(arguments), config.tiles.resolutions, tile=config.vision.image_size, side=config.side
        )
        flat, order = features.reshape(1, -1, features.shape[-1]), jnp.asarray(np.concatenate(orders))[None]
        arranged = pretrained.model().apply(nested(parameters), flat, order, method="arrange")[0]
        return jnp.split(arranged, np.cumsum([len(order) for order in orders])[:-1])
    if arguments["pixel_values"].ndim == 4:
        return list(features)
    rows = jnp.split(features, np.cumsum(_pictures_of_rows(arguments))[:-1])
    return [row.reshape(-1, row.shape[-1]) for row in rows]


def _sizes(arguments):
    return [(int(height), int(width)) for height, width in arguments["image_sizes"]]


def _pictures_of_rows(arguments) -> list[int]:
    """How many pictures each row has; all that it can where nothing says it."""
    if "pixel_attention_mask" not in arguments:
        rows, most = arguments["pixel_values"].shape[:2]
        return [most] * rows
    return np.asarray(arguments["pixel_attention_mask"]).any(axis=(2, 3)).sum(axis=1).tolist()


def _present(config, arguments):
    """Patches with a pixel that is no padding."""
    if "pixel_attention_mask" not in arguments:
        return None
    patch = config.vision.patch_size
    mask = np.asarray(arguments["pixel_attention_mask"], bool)
    rows, columns = (edge // patch for edge in mask.shape[2:])
    cells = mask[:, :, : rows * patch, : columns * patch].reshape(-1, rows, patch, columns, patch)
    return jnp.asarray(cells.any(axis=(2, 4)).reshape(-1, rows * columns))
