"""Pictures as the reference's encoders take them: whole, or cut into patches already (SigLIP-2)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError
from mmjax.interop.calls.adapters import Arguments, pictures
from mmjax.models.encoders.vit import ViTConfig, ViTOutput


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What a ViT sees, and where the reference's patches lie in it.

    present: the patches that are picture; None: all of them.
    places: of each patch of the reference among those of `images`; None: the same.
    """

    images: Float[Array, "B h w 3"]
    present: Bool[Array, "B P"] | None = None
    places: Int[np.ndarray, "B Q"] | None = None

    def in_order(self, output: ViTOutput) -> ViTOutput:
        """`output` with its patches in the reference's order."""
        if self.places is None:
            return output
        index = jnp.asarray(self.places)[..., None]
        return output.replace(
            features=jnp.take_along_axis(output.features, index, axis=1),
            tokens=jnp.take_along_axis(output.tokens, index, axis=1),
            hidden=jnp.take_along_axis(output.hidden, index[None], axis=2),
        )


def given_pictures(config: ViTConfig, arguments: Arguments) -> Pictures:
    """The pictures of a call.

    pixel_values are pictures [B, 3, h, w], or patches [B, P, p * p * 3] row by row, each picture's own first and then
    padding; then `spatial_shapes` [B, 2] says how many rows and columns of them each picture has.

    Raises:
      InputError: the patches do not fit spatial_shapes, or these pixel_attention_mask.
    """
    pixels = arguments["pixel_values"]
    if pixels.ndim == 3:
        return _from_patches(config.patch_size, arguments)
    images = pictures(pixels)
    if images.shape[1] == images.shape[2] == config.image_size:
        return Pictures(images)
    # What fills no patch at the right and the bottom is passed over by the reference.
    height, width = (side - side % config.patch_size for side in images.shape[1:3])
    return Pictures(images[:, :height, :width])


def _from_patches(patch, arguments):
    """All pictures in one grid, each at its top left; padding fills what is left."""
    patches = jnp.asarray(arguments["pixel_values"])
    batch, count, depth = patches.shape
    shapes = _shapes(patch, arguments)
    columns = shapes[:, 1].max()
    rows = max(shapes[:, 0].max(), -(-count // columns))
    inside = (np.arange(rows)[None] < shapes[:, :1])[:, :, None] & (np.arange(columns)[None] < shapes[:, 1:])[:, None]
    inside = inside.reshape(batch, rows * columns)
    places = np.argsort(~inside, axis=1, kind="stable").astype(np.int32)
    cells = jnp.pad(patches, ((0, 0), (0, rows * columns - count), (0, 0)))
    cells = jnp.take_along_axis(cells, jnp.asarray(np.argsort(places, axis=1).astype(np.int32))[..., None], axis=1)
    images = cells.reshape(batch, rows, columns, patch, patch, depth // patch**2)
    images = images.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * patch, columns * patch, -1)
    if inside.all():
        return Pictures(images)
    return Pictures(images, jnp.asarray(inside), places[:, :count])


def _shapes(patch, arguments):
    """spatial_shapes, as far as the other arguments agree with them."""
    batch, count, depth = arguments["pixel_values"].shape
    if depth != patch * patch * 3:
        raise InputError(
            f"pixel_values has patches of {depth} numbers; this checkpoint's have {patch}x{patch} pixels of 3"
        )
    if "spatial_shapes" not in arguments:
        raise InputError("pixel_values are patches, so spatial_shapes must give the rows and columns of each picture")
    shapes = np.asarray(arguments["spatial_shapes"])
    if shapes.shape != (batch, 2) or (shapes < 1).any() or (shapes.prod(axis=1) > count).any():
        raise InputError(
            f"spatial_shapes must give rows and columns of each of the {batch} pictures, of at most {count} patches in "
            f"all, not {shapes.tolist()}"
        )
    own = np.arange(count)[None] < shapes.prod(axis=1)[:, None]
    mask = np.asarray(arguments.get("pixel_attention_mask", np.ones_like(own))) != 0
    if not np.array_equal(mask, own):
        raise InputError(
            "pixel_attention_mask must be 1 at the rows x columns of spatial_shapes that each picture begins with, "
            "and 0 at the padding after them"
        )
    return shapes
