"""Picture files: every mode becomes RGB, sizes are fitted, and what is broken or too large is named, not decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import DataError
from mmjax.data.images import load_image


def encode(image, kind="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def noise(width=60, height=40, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def halves(width=40, height=20):
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


def kind_of(source, **settings):
    with pytest.raises(DataError) as caught:
        load_image(source, **{"size": 16} | settings)
    return caught.value.kind


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_formats_from_bytes_and_from_a_path(kind, tmp_path):
    data = encode(halves(), kind)
    path = tmp_path / "picture"
    path.write_bytes(data)
    picture = load_image(data, size=20, fit="stretch")
    assert np.array_equal(picture, load_image(path, size=20, fit="stretch"))
    assert picture.shape == (20, 20, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture[:, 3].astype(int) - [255, 0, 0]).max() < 8
    assert np.abs(picture[:, -3].astype(int) - [0, 0, 255]).max() < 8


def test_a_picture_of_the_right_size_is_not_touched():
    image = noise(24, 24)
    for fit in ("crop", "stretch", "pad"):
        assert np.array_equal(load_image(encode(image), size=24, fit=fit), np.asarray(image))


def test_crop_cuts_the_middle_pad_adds_black_and_stretch_keeps_all():
    image = Image.new("RGB", (60, 20), "green")
    image.paste("white", (20, 0, 40, 20))
    data = encode(image)
    assert (load_image(data, size=20, fit="crop") == 255).all()
    padded = load_image(data, size=30, fit="pad")
    assert not padded[:9].any()
    assert not padded[-9:].any()
    assert (padded[15, 12:18] == 255).all()
    stretched = load_image(data, size=30, fit="stretch")
    assert (stretched[:, 13:17] == 255).all()
    assert stretched[:, :8].sum(axis=2).max() < 255


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (20, 20), 77), (77, 77, 77)),
        (Image.new("1", (20, 20), 1), (255, 255, 255)),
        (Image.new("RGBA", (20, 20), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (20, 20), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("LA", (20, 20), (10, 255)), (10, 10, 10)),
        (Image.fromarray(np.full((20, 20), 0x8000, np.uint16)), (128, 128, 128)),
    ],
    ids=["grey", "bilevel", "clear", "opaque", "grey_alpha", "sixteen_bits"],
)
def test_modes_become_rgb(image, expected):
    assert (load_image(encode(image), size=16) == np.array(expected, np.uint8)).all()


def test_a_transparent_palette_colour_and_cmyk():
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert (load_image(encode(image, transparency=1), size=16) == 255).all()
    assert (load_image(encode(image), size=16) == (255, 0, 0)).all()
    cmyk = load_image(encode(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF"), size=16)
    assert (cmyk == (255, 0, 0)).all()


def test_the_rotation_of_the_camera_is_undone():
    image = halves(40, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the file's picture is the scene's right side
    picture = load_image(encode(image, "JPEG", exif=exif, quality=95), size=40)
    turned = np.asarray(image.rotate(-90))
    assert np.abs(picture.astype(int) - turned).mean() < 4


def test_large_jpegs_are_decoded_smaller_and_look_the_same():
    smooth = Image.linear_gradient("L").resize((800, 600)).convert("RGB")
    data = encode(smooth, "JPEG", quality=95)
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((50, 50), Image.Resampling.BICUBIC))
    assert np.abs(load_image(data, size=50, fit="stretch").astype(int) - whole).mean() < 2


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (load_image(data, size=16) == (255, 0, 0)).all()


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # Pillow warns of a cut TIFF before it fails
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_file_cut_anywhere_is_never_let_through(kind):
    data = encode(noise(), kind)
    kinds = {kind_of(data[: int(len(data) * share)]) for share in (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9)}
    assert kinds <= {"truncated", "corrupt", "not_an_image"}
    assert "not_an_image" in kinds
    assert kind_of(data[: len(data) // 2]) in {"truncated", "corrupt", "not_an_image"}


def test_a_cut_jpeg_is_called_truncated():
    data = encode(noise(), "JPEG")
    assert kind_of(data[: len(data) // 2]) == "truncated"


def test_a_png_with_a_wrong_checksum_is_corrupt():
    data = bytearray(encode(noise()))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    assert kind_of(bytes(data)) in {"corrupt", "truncated"}


@pytest.mark.parametrize("data", [b"", b"not a picture", b"%PDF-1.7 something", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_other_files_are_no_images(data):
    assert kind_of(data) == "not_an_image"


def test_missing_files_and_folders_are_named(tmp_path):
    assert kind_of(tmp_path / "none.png") == "missing"
    assert kind_of(tmp_path) == "missing"
    with pytest.raises(DataError, match=r"none\.png cannot be read: No such file"):
        load_image(tmp_path / "none.png", size=8)


def png_of_zeros(side):
    """A small file that says it holds side x side pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 12_000, 20_000])
def test_a_bomb_is_refused_before_it_is_decoded(side, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert kind_of(png_of_zeros(side)) == "too_large"


def test_the_limit_on_pixels_is_the_callers():
    data = encode(noise(30, 20))
    assert kind_of(data, max_pixels=599) == "too_large"
    assert load_image(data, size=8, max_pixels=600).shape == (8, 8, 3)
