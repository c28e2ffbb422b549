"""Videos of tables and of conversations: on the frame axis, as pictures, and with times."""

import json

import numpy as np
import pytest

from mmjax.core.config import build
from mmjax.core.errors import ConfigError, DataError
from mmjax.core.example import Media
from mmjax.data import video
from mmjax.data.config import DataConfig
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer
from tests.data.sources.made import COLOURS, colour, make, picture, read, write_tar, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", range(3))
    write_video(folder / "b.mp4", range(3, 5), frames=1, rate=1)
    (folder / "0.jpg").write_bytes(picture(7))
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:500])
    return folder


def table(folder, name="a.jsonl", **options):
    rows = [("a.mp4", "three"), ("b.mp4", "two"), ("broken.mp4", "none"), ("gone.mp4", "none")]
    if name.endswith(".csv"):
        text = "\n".join(["video,text", *map(",".join, rows)])
    else:
        text = "\n".join(json.dumps({"video": file, "text": said}) for file, said in rows)
    (folder / name).write_text(text)
    return make("video", paths=[str(folder / name)], **options)


def frames_of(medium):
    return [COLOURS.index(colour(Media((frame,)))) for frame in medium.load()]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_video_is_a_medium_of_frames(folder, name):
    source = table(folder, name, video={"frames": 3})
    medium, text = source.load(0, 0).segments
    assert (frames_of(medium), text.text) == ([0, 1, 2], "three")
    assert frames_of(source.load(1, 0).segments[0]) == [3, 4]  # it has no more
    for index, kind in ((2, "not_a_video"), (3, "missing")):
        with pytest.raises(DataError, match=f"record {index} of data") as caught:
            source.load(index, 0).segments[0].load()
        assert caught.value.kind == kind


def test_frames_as_pictures_and_with_their_times(folder):
    assert read(table(folder, video={"frames": 2, "shown_as": "pictures"}), 0) == "[red][blue]<three>¶"
    stamped = table(folder, video={"frames": 3, "shown_as": "pictures", "times": True})
    assert read(stamped, 0) == "0.5s[red]1.5s[lime]2.5s[blue]<three>¶"
    with pytest.raises(DataError, match="record 3 of data"):
        stamped.load(3, 0)


def test_frames_on_one_axis_after_their_times(folder):
    source = table(folder, video={"frames": 3, "times": True})
    times, medium, said = source.load(0, 0).segments
    assert (times.text, times.loss, said.text) == ("0.5s, 1.5s, 2.5s", False, "three")
    assert frames_of(medium) == [0, 1, 2]
    times, medium, _ = source.load(1, 0).segments
    assert times.text == "0.3s, 1.0s, 1.7s"
    assert frames_of(medium) == [3, 4, 4]  # of two seconds: each time has its frame


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Four seconds of red, one of lime, two of blue."""
    folder = tmp_path_factory.mktemp("uneven")
    write_video(folder / "a.mp4", [0, 0, 0, 0, 1, 2, 2])
    return folder


@pytest.mark.parametrize("shown_as", ["frames", "pictures"])
def test_times_of_scenes_are_found_once(uneven, tmp_path, monkeypatch, shown_as):
    def open_source(frames=3):
        sampling = {"frames": frames, "at": "scenes", "shown_as": shown_as, "times": True}
        return table(uneven, video=sampling, cache=str(tmp_path))

    one = {"frames": "2.0s, 4.5s, 6.0s[red]<three>¶", "pictures": "2.0s[red]4.5s[lime]6.0s[blue]<three>¶"}
    assert read(open_source(), 0) == one[shown_as]
    media = [segment for segment in open_source().load(0, 0).segments if isinstance(segment, Media)]
    assert [frame for medium in media for frame in frames_of(medium)] == [0, 1, 2]
    (kept,) = (tmp_path / "scenes").rglob("*.npy")

    looked = []
    monkeypatch.setattr(video._Video, "scenes", looked.append)
    assert read(open_source(), 0) == one[shown_as]
    assert read(open_source(4), 0).startswith("1.0s")  # red is cut once more, by what is known
    assert not looked
    monkeypatch.undo()
    kept.write_bytes(b"damaged")
    assert read(open_source(), 0) == one[shown_as]
    write_video(uneven / "a.mp4", [0, 0, 0, 0, 1, 2, 2, 3])  # another file of that name
    assert read(open_source(4), 0).startswith("2.0s")
    assert len(list((tmp_path / "scenes").rglob("*.npy"))) == 2
    write_video(uneven / "a.mp4", [0, 0, 0, 0, 1, 2, 2])


def test_scenes_of_videos_in_archives_are_kept_by_content(uneven, tmp_path, monkeypatch):
    sampling = {"frames": 3, "at": "scenes", "times": True}
    for name in "vw":
        folder = tmp_path / name
        folder.mkdir()
        archive = write_tar(folder / "v.tar", [("a.mp4", (uneven / "a.mp4").read_bytes())])
        source = table(folder, images=archive, video=sampling, cache=str(tmp_path / "cache"))
        assert source.load(0, 0).segments[0].text == "2.0s, 4.5s, 6.0s"
    assert len(list((tmp_path / "cache" / "scenes").rglob("*.npy"))) == 1


def test_videos_in_archives(folder, tmp_path):
    archive = write_tar(tmp_path / "v.tar", [("a.mp4", (folder / "a.mp4").read_bytes())])
    source = table(folder, images=archive, video={"frames": 3})
    assert frames_of(source.load(0, 0).segments[0]) == [0, 1, 2]


CHATS = [
    {
        "messages": [
            {"role": "user", "content": "<image> and <video>?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "<video>"},
            {"role": "assistant", "content": "No."},
        ],
        "images": ["0.jpg"],
        "videos": ["a.mp4", "b.mp4"],
    },
    {
        "messages": [
            {"role": "user", "content": [{"type": "video", "video": "b.mp4"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "Yes."},
        ]
    },
    {"messages": [{"role": "user", "content": "A <video> tag?"}, {"role": "assistant", "content": "HTML."}]},
    {
        "messages": [{"role": "user", "content": "<video> <video>"}, {"role": "assistant", "content": "?"}],
        "video": "a.mp4",
    },
]


def test_videos_and_pictures_in_a_chat(folder):
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, CHATS)))
    options = {"paths": [str(folder / "chat.jsonl")], "system": ""}
    source = make("chat", **options)
    assert read(source, 0) == ("USER: [black] and [red]? ASSISTANT:< Yes.>¶USER: [yellow] ASSISTANT:< No.>")
    assert read(source, 2) == "USER: A <video> tag? ASSISTANT:< HTML.>"
    with pytest.raises(DataError, match="more videos than it names"):
        source.load(3, 0)
    stamped = make("chat", **options, video={"frames": 2, "shown_as": "pictures", "times": True})
    assert read(stamped, 1) == "USER: 0.5s[yellow]1.5s[cyan]What? ASSISTANT:< Yes.>"


def test_llava_video_marks_a_video_as_a_picture(folder):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    (folder / "llava.json").write_text(json.dumps([{"video": "a.mp4", "conversations": turns}]))
    source = make("llava", paths=[str(folder / "llava.json")], system="")
    assert read(source, 0) == "USER: [red]\nWhat? ASSISTANT:< A dog.>"


def test_rows_have_the_frames_on_an_axis_of_their_own(folder):
    table(folder)
    entry = {"kind": "video", "options": {"paths": [str(folder / "a.jsonl")], "video": {"frames": 3, "at": "scenes"}}}
    config = {"sources": {"v": entry}, "length": 32, "images": 2, "frames": 4, "image_size": 16, "max_bad_share": 1.0}
    with pytest.raises(ConfigError, match=r"options.video.frames is 3: raise frames \(2\) to as many"):
        build(DataConfig, config | {"frames": 2})
    stream = BatchStream(build(DataConfig, config), ByteTokenizer(), batch_size=2, seed=0, workers=0)
    items = [stream.read(step) for step in range(2)]
    batch = items[0].batch
    assert batch.images.shape == (2, 2, 4, 16, 16, 3)
    assert set(batch.image_mask.sum(axis=2).ravel().tolist()) <= {0, 2, 3}
    assert {record.kind for item in items for record in item.bad_records} == {"not_a_video", "missing"}


def test_all_frames_of_a_video_draw_alike(folder, tmp_path):
    write_video(tmp_path / "a.mp4", [0, 0], side=(16, 16))
    (tmp_path / "a.jsonl").write_text(json.dumps({"video": "a.mp4", "text": "red"}))
    options = {"paths": [str(tmp_path / "a.jsonl")], "video": {"frames": 2}, "augment": {"hue": 0.5}}
    epochs = [make("video", **options).load(0, epoch).segments[0].load() for epoch in range(5)]
    assert all(len(frames) == 2 and np.array_equal(*frames) for frames in epochs)
    assert len({frames[0].tobytes() for frames in epochs}) > 1
