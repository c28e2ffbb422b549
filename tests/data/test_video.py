"""Frames of videos that are made here: which are taken, when they are shown, and what is refused."""

import functools
import pathlib

import numpy as np
import pytest

from mmjax.core.errors import ConfigError, DataError
from mmjax.core.example import Media
from mmjax.data.images import fitted
from mmjax.data.video import Sampling, Scenes, duration, even_times, find_scenes, middles, read_frames
from tests.data.sources.made import COLOURS, colour, write_video


def colours(frames):
    return [COLOURS.index(colour(Media((pixels,)))) for pixels in frames.pixels]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Five seconds: red, lime, blue, yellow and cyan."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", range(5))


@pytest.mark.parametrize("name", ["mpeg4.mp4", "libx264.mkv", "libvpx-vp9.webm", "mjpeg.avi", "libx264.ts", "gif.gif"])
def test_containers_and_codecs(tmp_path, name):
    path = write_video(tmp_path / name, range(5), codec=name.split(".")[0])
    for at in ("uniform", "scenes"):
        frames = read_frames(path, sampling=Sampling(frames=5, at=at))
        assert colours(frames) == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(frames.seconds, [0.4, 1.4, 2.4, 3.4, 4.4], atol=1e-6)
        assert frames.pixels[0].shape == (48, 64, 3)
    assert duration(path, sampling=Sampling()) == pytest.approx(5.0, abs=0.21)
    assert colours(read_frames(pathlib.Path(path).read_bytes(), sampling=Sampling(frames=2))) == [1, 3]


def test_a_frame_that_is_shown_throughout_counts_once(tmp_path):
    path = write_video(tmp_path / "a.mp4", range(3), frames=1, rate=1)
    sampling = Sampling(frames=12)
    assert colours(read_frames(path, sampling=sampling)) == [0, 1, 2]
    assert colours(read_frames(path, sampling=sampling, places=[0, 1, 2, 11])) == [0, 0, 0, 2]


def test_scenes_of_different_lengths(tmp_path):
    path = write_video(tmp_path / "a.mp4", [0] * 6 + [1] + [2] * 3)
    assert colours(read_frames(path, sampling=Sampling(frames=3, at="scenes"))) == [0, 1, 2]
    assert colours(read_frames(path, sampling=Sampling(frames=4, at="scenes"))) == [0, 0, 1, 2]
    assert colours(read_frames(path, sampling=Sampling(frames=3))) == [0, 0, 2]


def test_middles_of_scenes():
    nothing = np.zeros(0)
    assert middles(Scenes(nothing, nothing, 10.0), 4) == even_times(10.0, 4)
    scenes = Scenes(np.array([2.0, 5.0]), np.array([1.0, 0.5]), 10.0)
    assert middles(scenes, 1) == (5.0,)
    assert middles(scenes, 2) == (1.0, 6.0)
    assert middles(scenes, 3) == (1.0, 3.5, 7.5)
    assert middles(scenes, 4) == (1.0, 3.5, 6.25, 8.75)


def test_weak_changes_begin_no_scene(tmp_path):
    """Red to lime changes all colours; a grey and a little lighter one are of the same level."""
    path = write_video(tmp_path / "a.mp4", [0, 0, 1])
    scenes = find_scenes(path, sampling=Sampling())
    assert scenes.seconds.tolist() == pytest.approx([2.0])
    assert scenes.changes.tolist() == pytest.approx([1.0])
    assert scenes.end == pytest.approx(3.0)
    assert len(find_scenes(write_video(tmp_path / "b.mp4", [3, 3]), sampling=Sampling()).seconds) == 0


def test_far_frames_are_reached_by_key_frames(tmp_path):
    path = write_video(tmp_path / "long.mp4", range(40), side=(16, 16))
    wanted = Sampling(frames=4, max_decoded=60)  # of 200
    assert colours(read_frames(path, sampling=wanted)) == [5, 7, 1, 3]
    with pytest.raises(DataError, match="more than 60 frames") as caught:
        read_frames(path, sampling=Sampling(frames=4, at="scenes", max_decoded=60))
    assert caught.value.kind == "too_long"


def kind_of(source, **settings):
    with pytest.raises(DataError) as caught:
        read_frames(source, **settings)
    return caught.value.kind


def test_limits_and_damage(clip, tmp_path):
    assert kind_of(clip, sampling=Sampling(max_seconds=4.9)) == "too_long"
    assert kind_of(clip, max_pixels=64 * 48 - 1) == "too_large"
    assert kind_of(str(tmp_path / "gone.mp4")) == "missing"
    webm = pathlib.Path(write_video(tmp_path / "a.mkv", range(5), codec="libx264")).read_bytes()
    assert kind_of(webm[: len(webm) // 2]) == "truncated"
    jpegs = pathlib.Path(write_video(tmp_path / "a.avi", range(5), codec="mjpeg")).read_bytes()
    broken = bytes(byte ^ (255 if place > 8000 and place % 37 == 0 else 0) for place, byte in enumerate(jpegs))
    assert kind_of(broken) == "corrupt"
    whole = pathlib.Path(clip).read_bytes()
    for size in range(0, len(whole) - 200, len(whole) // 40):  # what follows is no part of the frames
        assert kind_of(whole[:size]) in ("not_a_video", "truncated", "corrupt")
    random = np.random.default_rng(0)
    for _ in range(40):
        data = np.frombuffer(whole, np.uint8).copy()
        data[random.integers(len(data), size=5)] = random.integers(256, size=5)
        try:
            read_frames(data.tobytes(), max_pixels=100_000)
        except DataError as error:
            assert error.kind in ("not_a_video", "truncated", "corrupt", "too_large", "too_long")


def test_lists_of_other_files_are_no_videos(clip, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    lists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{clip}\n#EXT-X-ENDLIST\n",
        "b.mp4": f"ffconcat version 1.0\nfile {clip}\n",
        "c.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 1234 RTP/AVP 96\n",
        "d.txt": "hello " * 100,
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    for name in ("empty.mp4", *lists):
        assert kind_of(str(tmp_path / name)) == "not_a_video"


def test_pixels_are_finished_one_frame_at_a_time(clip):
    finish = functools.partial(fitted, height=16, width=16, fit="crop")
    frames = read_frames(clip, sampling=Sampling(frames=5), finish=finish)
    assert colours(frames) == [0, 1, 2, 3, 4]
    assert {pixels.shape for pixels in frames.pixels} == {(16, 16, 3)}


def test_settings_that_cannot_be():
    for wrong in (
        {"frames": 0},
        {"max_seconds": 0},
        {"frames": 8, "max_decoded": 7},
    ):
        with pytest.raises(ConfigError):
            Sampling(**wrong)
