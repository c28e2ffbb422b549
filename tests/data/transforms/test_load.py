"""Picture files through crops, transforms and tiles; and that data sets of files give each frame its key."""

import concurrent.futures
import hashlib
import io
import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import ConfigError, DataError
from mmjax.core.example import Media, Text
from mmjax.data.config import DataConfig, SourceEntry, make_source
from mmjax.data.images import Jpeg
from mmjax.data.stream import BatchStream
from mmjax.data.transforms.augment import Augment
from mmjax.data.transforms.load import PictureLoader
from mmjax.data.transforms.tiles import best_grid, cut
from mmjax.text.tokenizer import ByteTokenizer

AUGMENT = {"crop": (0.2, 1.0), "flip": 0.5, "brightness": 0.3, "hue": 0.1, "rand_augment": 2, "erase": 0.5}


def jpeg(height, width, seed=0):
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def entry(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(60, 80, number))
    lines = [json.dumps({"image": [f"{number}.jpg", "0.jpg"], "text": f"dog {number}"}) for number in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))

    def make(seed=0, **options):
        options = {"paths": (str(tmp_path / "a.jsonl"),), **options}
        return make_source(SourceEntry("jsonl", options=options), name="data", seed=seed, image_size=32)

    return make


def frames(source, index, epoch):
    return [frame for part in source.load(index, epoch).segments if isinstance(part, Media) for frame in part.load()]


def digest(source, index, epoch):
    return hashlib.sha256(b"".join(frame.tobytes() for frame in frames(source, index, epoch))).hexdigest()


def test_pixels_depend_on_seed_example_and_epoch_alone(entry):
    source = entry(augment=AUGMENT)
    looks = {(index, epoch): digest(source, index, epoch) for index in range(4) for epoch in range(3)}
    assert len(set(looks.values())) == 12
    assert digest(entry(augment=AUGMENT, seed=1), 0, 0) != looks[0, 0]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda place: digest(source, *place), list(looks) * 3))
    assert again == list(looks.values()) * 3
    plain = entry()
    assert digest(plain, 0, 0) == digest(plain, 0, 1)


def test_another_process_draws_the_same(entry):
    source = entry(augment=AUGMENT)
    made = digest(source, 2, 1)
    code = (
        "import hashlib, pickle, sys\n"
        "source = pickle.load(sys.stdin.buffer)\n"
        "frames = [f for s in source.load(2, 1).segments if hasattr(s, 'frames') for f in s.load()]\n"
        "print(hashlib.sha256(b''.join(f.tobytes() for f in frames)).hexdigest())"
    )
    ran = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True)
    assert ran.stdout.decode().strip() == made


def test_the_pictures_of_an_example_have_keys_of_their_own(entry):
    first, second = frames(entry(augment={"crop": (0.1, 0.9)}), 0, 0)
    assert not np.array_equal(first, second)  # of the same file


def test_pixel_options_leave_the_measured_lengths_alone_and_word_options_do_not(entry):
    plain = entry().fingerprint
    assert entry(augment=AUGMENT, tiles=4, seed=5).fingerprint == plain
    worded = entry(templates=("a {}", "the {}"))
    assert worded.fingerprint != plain
    assert worded.fingerprint != entry(templates=("a {}", "the {}"), seed=1).fingerprint
    assert entry(typos=0.1).fingerprint != entry(drop_words=0.1).fingerprint


def test_texts_are_reworded_by_the_examples_number(entry):
    source = entry(templates=("a {}!", "the {}.", "one {}"), typos=0.0)

    def text(index, epoch=0):
        (only,) = [part for part in source.load(index, epoch).segments if isinstance(part, Text)]
        assert only.loss
        assert only.end_of_chunk
        return only.text

    assert all(text(index).strip("!.").endswith(f" dog {index}") for index in range(4))
    assert len({text(index).split()[0] for index in range(4)}) > 1
    assert [text(index, 1) for index in range(4)] == [text(index) for index in range(4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": {"flip": 2.0}}, r"options\.augment: flip must be between 0 and 1"),
        ({"augment": {"flop": 0.5}}, r"did you mean flip"),
        ({"templates": ("dog",)}, "must have one {}"),
        ({"typos": 1.5}, "typos must be between 0 and 1"),
        ({"tiles": 1}, "tiles must be 0"),
    ],
)
def test_wrong_options_are_named(entry, options, message):
    with pytest.raises(ConfigError, match=message):
        entry(**options)


def test_a_random_crop_is_what_its_box_shows():
    data = jpeg(480, 640)
    whole = np.asarray(Image.open(io.BytesIO(data)))
    loader = PictureLoader(64, augment=Augment(crop=(0.05, 1.0)))
    for key in range(30):
        box = loader._view(480, 640, key).box
        expected = Image.fromarray(whole[box.top : box.top + box.height, box.left : box.left + box.width])
        expected = np.asarray(expected.resize((64, 64), Image.Resampling.BICUBIC), np.int64)
        assert np.abs(loader(data, key) - expected).mean() < 2.5
        assert np.abs(loader.of_pixels(whole, key) - expected).mean() < 2.5


def test_a_small_crop_is_decoded_at_a_scale_that_gives_it_pixels(monkeypatch):
    read = []
    original = Jpeg.decoded

    def watched(*arguments):
        read.append(original(*arguments))
        return read[-1]

    monkeypatch.setattr(Jpeg, "decoded", watched)
    for area, height in ((1.0, 120), (0.2, 240), (0.01, 960)):
        PictureLoader(100, augment=Augment(crop=(area, area), crop_aspect=(1.0, 1.0)))(jpeg(960, 960), key=3)
        assert read[-1].pixels.shape[0] == height


def test_a_frame_is_made_where_it_shall_lie():
    for data in (jpeg(60, 80), jpeg(32, 32), jpeg(20, 20)):
        for fit in ("crop", "pad", "stretch"):
            loader = PictureLoader(32, fit=fit)
            out = np.full((32, 32, 3), 7, np.uint8)
            made = loader(data, None, out)
            assert np.shares_memory(made, out)
            assert np.array_equal(out, loader(data))
    small = np.zeros((16, 16, 3), np.uint8)
    assert np.array_equal(loader(data, None, small), loader(data))
    assert not small.any()


def test_without_a_key_nothing_is_drawn():
    data = jpeg(60, 80)
    loader = PictureLoader(32, augment=Augment(**AUGMENT))
    assert np.array_equal(loader(data), PictureLoader(32)(data))
    assert not np.array_equal(loader(data, 1), loader(data))


@pytest.mark.parametrize(
    ("shape", "tiles", "grid"),
    [
        ((100, 100), 4, (1, 1)),  # no more pixels than a tile holds
        ((448, 448), 4, (2, 2)),
        ((400, 1200), 4, (1, 3)),
        ((1200, 400), 4, (3, 1)),
        ((448, 672), 6, (2, 3)),
        ((600, 1000), 0, (1, 1)),
        ((10, 5000), 9, (1, 9)),
    ],
)
def test_the_grid_suits_the_shape(shape, tiles, grid):
    assert best_grid(*shape, 224, tiles) == grid


def test_grids_against_the_rule_written_out():
    random = np.random.default_rng(0)
    for _ in range(100):
        height, width = random.integers(20, 2000, 2).tolist()
        ranks = {}
        for rows, columns in [(r, c) for r in range(1, 7) for c in range(1, 7) if r * c <= 6]:
            scale = min(rows * 100 / height, columns * 100 / width)
            shown = min(int(height * scale) * int(width * scale), height * width)
            ranks[rows, columns] = (shown, -(rows * columns * 10_000 - shown))
        assert ranks[best_grid(height, width, 100, 6)] == max(ranks.values())


def test_tiles_are_the_parts_of_the_picture_after_all_of_it():
    data = jpeg(128, 192)
    made = PictureLoader(64, tiles=6, fit="stretch")(data)
    assert made.shape == (7, 64, 64, 3)
    whole = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(made[1:], cut(whole, 64))
    assert np.array_equal(made[1], whole[:64, :64])
    assert np.array_equal(made[6], whole[64:, 128:])
    assert np.abs(made[0].astype(int) - PictureLoader(64, fit="stretch")(data)).mean() < 2
    assert PictureLoader(64, tiles=6)(jpeg(40, 40)).shape == (1, 64, 64, 3)


def test_tiles_become_frames_of_one_medium(entry):
    media = [part for part in entry(tiles=4).load(0, 0).segments if isinstance(part, Media)]
    assert len(media) == 2
    shown = media[0].load()
    assert len(shown) == 1 + np.prod(best_grid(60, 80, 32, 4))
    assert {frame.shape for frame in shown} == {(32, 32, 3)}


def stream(tmp_path, workers=0, **options):
    options = {"paths": (str(tmp_path / "a.jsonl"),), "cache": str(tmp_path / "cache"), **options}
    config = DataConfig({"data": SourceEntry("jsonl", options=options)}, length=64, images=4, frames=5, workers=workers)
    return BatchStream(config, ByteTokenizer(), batch_size=2, seed=0)


def test_a_stream_is_known_by_its_transforms_and_its_decoder(entry, tmp_path, monkeypatch):
    plain = stream(tmp_path).fingerprint()
    assert stream(tmp_path, augment=AUGMENT).fingerprint() != plain
    assert stream(tmp_path, tiles=4).fingerprint() != plain
    monkeypatch.setattr("mmjax.data.stream.DECODER", "another")
    assert stream(tmp_path).fingerprint() != plain


def test_threads_change_no_transform(entry, tmp_path):
    alone, shared = (
        [item.batch.images for item in itertools.islice(stream(tmp_path, workers, augment=AUGMENT, tiles=4), 6)]
        for workers in (0, 3)
    )
    assert all(map(np.array_equal, alone, shared))
    assert not np.array_equal(alone[0], alone[-1])


def test_rows_must_have_room_for_the_tiles():
    with pytest.raises(ConfigError, match="up to 5 frames: raise frames"):
        DataConfig({"a": SourceEntry("jsonl", options={"paths": ["x"], "tiles": 4})}, frames=4)


def test_errors_of_pictures_stay_what_they_are():
    loader = PictureLoader(32, augment=Augment(**AUGMENT), tiles=4, max_pixels=1000)
    with pytest.raises(DataError) as caught:
        loader(jpeg(60, 80), 1)
    assert caught.value.kind == "too_large"
