"""Picture files: every mode becomes RGB, sizes are fitted, and what is broken or too large is named, not decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmjax.core.errors import DataError
from mmjax.data.images import load_image, open_jpeg


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


@pytest.mark.parametrize("size", [(224, 224), (225, 224), (450, 451), (640, 480), (481, 643), (1001, 333), (97, 31)])
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_close_to_what_pillow_makes_of_them(size, fit, mode):
    smooth = noise(*(max(2, side // 60) for side in size)).resize(size, Image.Resampling.BICUBIC).convert(mode)
    data = encode(smooth, "JPEG", quality=90)
    decoded = Image.open(io.BytesIO(data)).convert("RGB")
    ways = {"crop": ImageOps.fit, "pad": ImageOps.pad, "stretch": Image.Image.resize}
    expected = np.asarray(ways[fit](decoded, (96, 96), Image.Resampling.BICUBIC), np.int64)
    picture = load_image(data, size=96, fit=fit)
    assert picture.flags["C_CONTIGUOUS"]
    assert np.abs(picture - expected).mean() < 3.0  # of noise, where a shift by a quarter of a pixel is worth 2


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_orientation_is_undone(turn, kind):
    exif = Image.Exif()
    exif[0x0112] = turn
    scene = noise(8, 5).resize((96, 60), Image.Resampling.BICUBIC)
    stored = encode(scene, kind, exif=exif, **({"quality": 97} if kind == "JPEG" else {}))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(stored))).convert("RGB")
    expected = np.asarray(ImageOps.pad(upright, (48, 48), Image.Resampling.BICUBIC), np.int64)
    assert np.abs(load_image(stored, size=48, fit="pad") - expected).mean() < 2.5


def test_an_orientation_that_stands_in_xmp_alone_is_undone():
    body = b"http://ns.adobe.com/xap/1.0/\0" + b'<x tiff:Orientation="6"/>'
    plain = encode(halves(40, 40), "JPEG", quality=97)
    marked = plain[:2] + b"\xff\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    expected = np.asarray(halves(40, 40).rotate(-90), np.int64)
    assert np.abs(load_image(marked, size=40) - expected).mean() < 4


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_cut_anywhere_is_truncated_and_nothing_grey_passes(settings):
    data = encode(noise(64, 48), "JPEG", quality=80, **settings)
    begin = data.index(b"\xff\xda")
    for place in [len(data) - 1, len(data) - 2, len(data) - 3, *range(begin + 16, len(data) - 3, 101)]:
        assert kind_of(data[:place]) == "truncated", place
        if place < len(data) - 4:  # an end put back makes it no better
            assert kind_of(data[:place] + b"\xff\xd9") in ("truncated", "corrupt"), place


def test_a_jpeg_that_libjpeg_only_warns_about_is_corrupt():
    data = bytearray(encode(noise(64, 48), "JPEG"))
    data[len(data) // 2 : len(data) // 2 + 2] = b"\x13\x37"
    Image.open(io.BytesIO(data)).load()  # Pillow lets it through
    assert kind_of(bytes(data)) == "corrupt"


def test_a_cmyk_jpeg_is_read_by_pillow():
    data = encode(Image.new("CMYK", (20, 30), (0, 255, 255, 0)), "JPEG")
    assert np.abs(load_image(data, size=16).astype(int) - [255, 0, 0]).max() < 8
    assert kind_of(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize(("side", "decoded"), [(1000, 125), (999, 250), (501, 125), (250, 125), (249, 249)])
def test_jpegs_are_decoded_at_the_nearest_larger_scale(side, decoded):
    data = encode(Image.new("RGB", (side, 2 * side)), "JPEG")
    read = open_jpeg(data).decoded(126, 125)
    assert read.pixels.shape == (2 * decoded, decoded, 3)
    assert (read.height, read.width) == (2 * side, side)


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


def test_pictures_that_are_too_small_are_refused_where_asked():
    for width, height in ((1, 1), (1, 500), (500, 1)):
        data = encode(Image.new("RGB", (width, height)))
        assert load_image(data, size=8).shape == (8, 8, 3)
        assert kind_of(data, min_side=2) == "too_small"
    assert load_image(encode(Image.new("RGB", (2, 2))), size=8, min_side=2).shape == (8, 8, 3)


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it passes over
@pytest.mark.parametrize("kind", FORMATS)
def test_damage_is_named_whatever_it_is(kind):
    """Cut, overwritten or with bytes put in at random places: a picture, or a DataError, and nothing else."""
    random = np.random.default_rng(FORMATS.index(kind))
    whole = encode(noise(31, 24), kind)
    broken = 0
    for trial in range(60):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: random.integers(0, len(data))]
        elif trial % 3 == 1:
            for _ in range(random.integers(1, 5)):
                data[random.integers(0, min(len(data), 200))] = random.integers(0, 256)
        else:
            place = random.integers(0, len(data))
            data[place:place] = random.bytes(random.integers(1, 30))
        try:
            assert load_image(bytes(data), size=16).shape == (16, 16, 3)
        except DataError as error:
            assert error.kind in ("truncated", "corrupt", "not_an_image", "too_large")
            broken += 1
    assert broken >= 10
