"""Picture processors that give one array a picture: resize, crop, pad, normalise (ViT, CLIP, SigLIP, BLIP, ...).

A processor here is a function from pictures [h, w, 3] (uint8) and settings to arrays under the names of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmjax.core.errors import InputError
from mmjax.interop.processing import sizes
from mmjax.interop.processing.pixels import center_crop, normalize, pad_to, resize
from mmjax.interop.processing.settings import ConvNextSettings, Gemma3Settings, PictureSettings

CONVNEXT_WARPS_FROM = 384  # pixels of the shortest edge


def resized(image: np.ndarray, settings: PictureSettings) -> np.ndarray:
    """`image` [h, w, 3] in the size that `settings.size` asks for.

    Raises:
      InputError: the rule is none that this kind of checkpoint knows.
    """
    rule, size = settings.size, image.shape[:2]
    if rule.shortest_edge:
        target = sizes.by_shortest_edge(size, rule.shortest_edge, rule.longest_edge)
    elif rule.max_height and rule.max_width:
        target = sizes.inside(size, (rule.max_height, rule.max_width))
    elif rule.exact:
        target = rule.exact
    else:
        raise InputError("size must give height and width, max_height and max_width, or shortest_edge")
    return resize(image, target, settings.resample)


def shaped(image: np.ndarray, settings: PictureSettings) -> np.ndarray:
    """Resized and cropped as the settings say, still uint8 [h, w, 3]."""
    if settings.do_resize:
        image = resized(image, settings)
    if settings.do_center_crop:
        image = center_crop(image, settings.crop_size.exact)
    return image


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of one shape as one array.

    Raises:
      InputError: the shapes differ.
    """
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise InputError(
            f"the pictures become arrays of different shapes with this checkpoint, {shapes[0]} and {shapes[-1]}; "
            "give them one at a time"
        )
    return np.stack(images)


def plain(images: list[np.ndarray], settings: PictureSettings) -> dict[str, np.ndarray]:
    """`pixel_values` [N, 3, h, w]."""
    values = [normalize(shaped(image, settings), **settings.numbers) for image in images]
    if settings.do_pad:
        values = _padded(values, settings)
    return {"pixel_values": stacked(values)}


def _padded(values, settings):
    """Zeros (after normalisation) to the right and below, to `pad_size` or else the largest of the pictures."""
    height, width = (max(edges) for edges in zip(*(value.shape[1:] for value in values), strict=True))
    if settings.pad_size is not None:
        target = settings.pad_size.exact
        if target is None or target[0] < height or target[1] < width:
            raise InputError(f"pad_size must give a height and width of at least {height} and {width}")
        height, width = target
    return [np.pad(v, ((0, 0), (0, height - v.shape[1]), (0, width - v.shape[2]))) for v in values]


def llava(images: list[np.ndarray], settings: PictureSettings) -> dict[str, np.ndarray]:
    """`pixel_values` [N, 3, h, w]; with `do_pad`, each picture is first made square with the mean colour around it."""
    values = []
    for image in images:
        if settings.do_pad:
            edge = max(image.shape[:2])
            start = ((edge - image.shape[0]) // 2, (edge - image.shape[1]) // 2)
            color = [int(mean * 255) for mean in np.broadcast_to(settings.image_mean, 3).tolist()]
            image = pad_to(image, (edge, edge), start=start, color=color)
        values.append(normalize(shaped(image, settings), **settings.numbers))
    return {"pixel_values": stacked(values)}


def convnext(images: list[np.ndarray], settings: ConvNextSettings) -> dict[str, np.ndarray]:
    """`pixel_values` [N, 3, e, e] with e the shortest edge: from 384 stretched, below cut from a larger picture."""
    edge = settings.size.shortest_edge
    if not edge:
        raise InputError("size of a ConvNeXT checkpoint must give shortest_edge")
    values = []
    for image in images:
        if settings.do_resize and edge >= CONVNEXT_WARPS_FROM:
            image = resize(image, (edge, edge), settings.resample)
        elif settings.do_resize:
            target = sizes.by_shortest_edge(image.shape[:2], int(edge / settings.crop_pct))
            image = center_crop(resize(image, target, settings.resample), (edge, edge))
        if settings.do_center_crop:
            image = center_crop(image, settings.crop_size.exact)
        values.append(normalize(image, **settings.numbers))
    return {"pixel_values": stacked(values)}


def gemma3(images: list[np.ndarray], settings: Gemma3Settings) -> dict[str, np.ndarray]:
    """`pixel_values` [N + crops, 3, h, w], each picture before its crops, and `num_crops` [N]."""
    values, counts = [], []
    for image in images:
        crops = []
        if settings.do_pan_and_scan:
            crops = sizes.pan_and_scan(
                image.shape[:2],
                smallest=settings.pan_and_scan_min_crop_size,
                most=settings.pan_and_scan_max_num_crops,
                ratio=settings.pan_and_scan_min_ratio_to_activate,
            )
        for part in [image, *(image[crop] for crop in crops)]:
            part = resized(part, settings) if settings.do_resize else part
            values.append(normalize(part, **settings.numbers))
        counts.append(len(crops))
    return {"pixel_values": stacked(values), "num_crops": np.array(counts, np.int64)}
