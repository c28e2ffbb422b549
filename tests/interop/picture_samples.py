"""Twenty pictures of the kinds that data sets hold: odd sizes, extreme aspects, every mode, turned JPEGs."""

import io

import numpy as np
from PIL import Image


def scene(width, height, seed=0):
    """A smooth ground with sharp blocks and some noise, RGB: edges show a wrong filter, ramps a wrong size."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ground = [128 + 100 * np.sin(x / (7 + 3 * c) + seed) * np.cos(y / (11 - 2 * c)) for c in range(3)]
    pixels = np.stack(ground, -1) + generator.normal(0, 6, (height, width, 3))
    for _ in range(4):
        top, left = generator.integers(0, height), generator.integers(0, width)
        pixels[top : top + height // 4 + 1, left : left + width // 5 + 1] = generator.integers(0, 256, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image, kind="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def reopened(image, kind="PNG", **settings):
    opened = Image.open(io.BytesIO(encoded(image, kind, **settings)))
    opened.load()
    return opened


def turned_jpeg(width, height, orientation, seed=0):
    """The bytes of a JPEG whose EXIF data say that it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(scene(width, height, seed), "JPEG", exif=exif, quality=90)


def with_alpha(image):
    x = np.linspace(0, 255, image.width).astype(np.uint8)
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(x, (image.height, 1))))
    return image


RGB = {
    "landscape": scene(97, 61, 1),
    "portrait": scene(53, 131, 2),
    "square": scene(64, 64, 3),
    "large": scene(311, 233, 4),
    "very wide": scene(301, 9, 5),
    "very tall": scene(7, 250, 6),
    "tiny": scene(3, 2, 7),
    "one pixel": scene(1, 1, 8),
    "two to one": scene(96, 48, 9),
    "odd": scene(129, 127, 10),
    "jpeg": reopened(scene(120, 90, 11), "JPEG", quality=80),
    "turned jpeg": Image.open(io.BytesIO(turned_jpeg(90, 60, 6, 12))),
    "webp": reopened(scene(73, 59, 13), "WEBP", quality=70),
}
OTHER = {
    "grey": scene(60, 45, 14).convert("L"),
    "grey and alpha": with_alpha(scene(50, 40, 15)).convert("LA"),
    "alpha": with_alpha(scene(80, 37, 16)),
    "palette": reopened(scene(66, 88, 17).quantize(32)),
    "clear colour": reopened(scene(44, 70, 18).quantize(16), "PNG", transparency=3),
    "cmyk": reopened(scene(70, 52, 19).convert("CMYK"), "JPEG"),
    "black and white": scene(40, 57, 20).convert("1"),
}
ALL = RGB | OTHER
