"""Picture processors that cut a picture into tiles or patches: Mllama, LLaVA-NeXT, Idefics3 and SmolVLM, Qwen2-VL.

Those of Mllama and Idefics3 know rows: they take the pictures of each prompt of a batch as a list of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mmjax.core.errors import InputError
from mmjax.interop.processing import sizes
from mmjax.interop.processing.pixels import normalize, pad_to, resize
from mmjax.interop.processing.plain import shaped, stacked
from mmjax.interop.processing.settings import (
    Idefics3Settings,
    LlavaNextSettings,
    MllamaSettings,
    Qwen2VLSettings,
)
from mmjax.models.connectors.tiles import best_resolution

Rows = list[list[np.ndarray]]


def llava_next(images: list[np.ndarray], settings: LlavaNextSettings) -> dict[str, np.ndarray]:
    """`pixel_values` [N, tiles, 3, h, w], the whole picture before its tiles, zeros after the last of them, and
    `image_sizes` [N, 2], the pictures' own (height, width).
    """
    rule = settings.size
    whole = rule.exact or (rule.shortest_edge, rule.shortest_edge)
    edge = (settings.crop_size.height if settings.crop_size else None) or rule.height or rule.shortest_edge
    if not edge or not whole[0]:
        raise InputError("size of a LLaVA-NeXT checkpoint must give shortest_edge, or height and width")
    values = []
    for image in images:
        resolution = best_resolution(image.shape[:2], settings.image_grid_pinpoints)
        fitted = resize(image, sizes.anyres_fit(image.shape[:2], resolution), settings.resample)
        start = ((resolution[0] - fitted.shape[0]) // 2, (resolution[1] - fitted.shape[1]) // 2)
        canvas = pad_to(fitted, resolution, start=start)
        corners = [(i, j) for i in range(0, resolution[0], edge) for j in range(0, resolution[1], edge)]
        tiles = [canvas[i : i + edge, j : j + edge] for i, j in corners]
        parts = [resize(image, whole, settings.resample), *tiles]
        values.append(stacked([normalize(shaped(part, settings), **settings.numbers) for part in parts]))
    if settings.do_pad:
        most = max(map(len, values))
        values = [np.pad(value, ((0, most - len(value)), (0, 0), (0, 0), (0, 0))) for value in values]
    return {
        "pixel_values": stacked(values),
        "image_sizes": np.array([image.shape[:2] for image in images], np.int64),
    }


def mllama(rows: Rows, settings: MllamaSettings) -> dict[str, Any]:
    """`pixel_values` [B, N, tiles, 3, e, e]; `aspect_ratio_ids` [B, N], which grid of tiles a picture has (0: there is
    no picture); `aspect_ratio_mask` [B, N, tiles], 1 for its tiles; `num_tiles`, how many, row by row.
    """
    edge, most = settings.size.height, settings.max_image_tiles
    grids = sizes.tile_grids(most)
    widest = max(map(len, rows))
    pixels = np.zeros((len(rows), widest, most, 3, edge, edge), np.float32)
    ids = np.zeros((len(rows), widest), np.int64)
    mask = np.zeros((len(rows), widest, most), np.int64)
    mask[:, :, 0] = 1  # the first tile counts even where there is no picture
    counts = []
    for b, row in enumerate(rows):
        counts.append([])
        for n, image in enumerate(row):
            grid = sizes.mllama_grid(image.shape[:2], most, edge)
            canvas = (grid[0] * edge, grid[1] * edge)
            fitted = resize(image, sizes.mllama_fit(image.shape[:2], canvas, edge), settings.resample)
            tiles = _tiles(pad_to(fitted, canvas), edge)
            pixels[b, n, : len(tiles)] = normalize(tiles, **settings.numbers)
            ids[b, n] = grids.index(grid) + 1
            mask[b, n, : len(tiles)] = 1
            counts[-1].append(len(tiles))
    return {"pixel_values": pixels, "aspect_ratio_ids": ids, "aspect_ratio_mask": mask, "num_tiles": counts}


def _tiles(canvas, edge):
    """[h, w, 3] -> [tiles, edge, edge, 3], row by row."""
    grid = canvas.reshape(canvas.shape[0] // edge, edge, canvas.shape[1] // edge, edge, 3)
    return grid.swapaxes(1, 2).reshape(-1, edge, edge, 3)


def idefics3(rows: Rows, settings: Idefics3Settings) -> dict[str, Any]:
    """`pixel_values` [B, tiles, 3, h, w], zeros where a picture or a row ends early; `pixel_attention_mask` [B, tiles,
    h, w], 1 where there is picture; `rows` and `cols`, the grid of each picture (0 and 0: it is not cut).
    """
    parts, grids = [], []
    for row in rows:
        cut = [_idefics3_parts(image, settings) for image in row]
        parts.append([normalize(part, **settings.numbers) for tiles, _ in cut for part in tiles])
        grids.append([grid for _, grid in cut])
    shapes = [part.shape[1:] for row in parts for part in row]
    height, width = (max(edges) for edges in zip(*shapes, strict=True))
    most = max(map(len, parts))
    pixels = np.zeros((len(parts), most, 3, height, width), np.float32)
    mask = np.zeros((len(parts), most, height, width), np.int64)
    for b, row in enumerate(parts):
        for n, part in enumerate(row):
            pixels[b, n, :, : part.shape[1], : part.shape[2]] = part
            mask[b, n, : part.shape[1], : part.shape[2]] = 1
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": mask,
        "rows": [[grid[0] for grid in row] for row in grids],
        "cols": [[grid[1] for grid in row] for row in grids],
    }


def _idefics3_parts(image, settings):
    """The tiles of a picture, then the whole of it, and the grid (rows, columns) that they make."""
    tile = settings.max_image_size.longest_edge
    if settings.do_resize:
        if settings.size.longest_edge:
            target = sizes.idefics3_resized(image.shape[:2], settings.size.longest_edge)
        elif settings.size.exact:
            target = settings.size.exact
        else:
            raise InputError("size of an Idefics3 checkpoint must give longest_edge, or height and width")
        image = resize(image, target, settings.resample)
    if not settings.do_image_splitting:
        return [resize(image, (tile, tile), settings.resample)], (0, 0)
    image = resize(image, sizes.idefics3_whole_tiles(image.shape[:2], tile), settings.resample)
    if image.shape[:2] == (tile, tile):
        return [image], (0, 0)
    grid = (image.shape[0] // tile, image.shape[1] // tile)
    return [*_tiles(image, tile), resize(image, (tile, tile), settings.resample)], grid


def qwen2_vl(images: list[np.ndarray], settings: Qwen2VLSettings) -> dict[str, np.ndarray]:
    """`pixel_values` [patches of all pictures, 3 * time * patch * patch] and `image_grid_thw` [N, 3], patches each way.

    Patches that the model merges (`merge_size` each way) follow one another; a still picture is repeated in time.
    """
    patch, merge = settings.patch_size, settings.merge_size
    values, grids = [], []
    for image in images:
        if settings.do_resize:
            bounds = settings.size.shortest_edge, settings.size.longest_edge
            target = sizes.qwen2_resized(image.shape[:2], patch * merge, *bounds)
            image = resize(image, target, settings.resample)
        height, width = image.shape[:2]
        if height % (patch * merge) or width % (patch * merge):
            raise InputError(
                f"a picture of {width} x {height} pixels does not divide into patches: without do_resize, "
                f"each edge must be a multiple of {patch * merge}"
            )
        pixels = normalize(image, **settings.numbers)
        blocks = pixels.reshape(3, height // patch // merge, merge, patch, width // patch // merge, merge, patch)
        blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        blocks = np.repeat(blocks, settings.temporal_patch_size, axis=5)
        values.append(blocks.reshape(height // patch * (width // patch), -1))
        grids.append((1, height // patch, width // patch))
    return {"pixel_values": np.concatenate(values), "image_grid_thw": np.array(grids, np.int64)}
