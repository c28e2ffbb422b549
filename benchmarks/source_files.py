"""Small files of drawn scenes, in the layout that a config snippet of docs/data.md asks for, at the places it names.

Scene n is a shape of a colour on a dark ground: "a red circle". One record in 24 is damaged, where a layout has room.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mmjax.data.sources.files import expand
from mmjax.data.sources.serialized import serialize_example

SCENES = 24
COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta")
SHAPES = ("circle", "square", "triangle", "bar")
QUESTION = "What is it?"
Options = Mapping[str, Any]


def scene(number: int, *, shift: int = 0) -> Image.Image:
    """The picture of a scene, moved to the right by `shift` pixels."""
    image = Image.new("RGB", (96, 72), (24, 24, 32))
    draw, colour = ImageDraw.Draw(image), COLOURS[number % len(COLOURS)]
    box = (30 + shift, 18, 66 + shift, 54)
    if shape(number) == "circle":
        draw.ellipse(box, colour)
    elif shape(number) == "square":
        draw.rectangle(box, colour)
    elif shape(number) == "triangle":
        draw.polygon([(48 + shift, 18), (66 + shift, 54), (30 + shift, 54)], colour)
    else:
        draw.rectangle((42 + shift, 10, 54 + shift, 62), colour)
    return image


def shape(number: int) -> str:
    """What is drawn in a scene."""
    return SHAPES[number // len(COLOURS) % len(SHAPES)]


def words(number: int) -> str:
    """The caption of a scene."""
    return f"a {COLOURS[number % len(COLOURS)]} {shape(number)}"


def write_files(kind: str, options: Options) -> None:
    """Writes what a data set of `kind` with `options` reads, beside the working folder's other files."""
    _WRITERS[kind](options)


def first_two(pattern: str) -> str:
    """A pattern of files with its ranges of numbers shortened to the first two: {00000..01242} -> {00000..00001}."""
    if ".." not in pattern:
        return pattern
    names = [name for name, _ in zip(expand(pattern), range(2), strict=False)]
    return "{" + ",".join(names) + "}"


def _file(number: int) -> bytes:
    """The file of a scene's picture, with a comment that makes it as large as photographs are; the last is cut off."""
    buffer = io.BytesIO()
    scene(number).save(buffer, "JPEG", quality=90, comment=b" " * 12_000)
    return buffer.getvalue()[: 13_100 if number == SCENES - 1 else None]


def _names(options: Options) -> Iterator[tuple[int, str]]:
    """The number and name of each file that `paths` names, made so that it can be written."""
    names = [os.path.expanduser(name) for pattern in options["paths"] for name in expand(pattern)]
    for number, name in enumerate(names):
        name = name.replace("*", "0")
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        yield number, name


def _folder(options: Options, beside: str) -> Path:
    folder = Path(options.get("images") or Path(beside).parent)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pictures(folder: Path, name: Callable[[int], str]) -> None:
    for number in range(SCENES):
        path = folder / name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_file(number))


def _json(path: str, value: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(value))


def _lines(path: str, records: list[Any]) -> None:
    Path(path).write_text("".join(f"{json.dumps(record)}\n" for record in records))


def _webdataset(options):
    for shard, name in _names(options):
        with tarfile.open(name, "w") as archive:
            for number in range(shard, SCENES, 2):
                facts = {"alt": f"{words(number)}, by its alt text", "caption": words(number)}
                parts = {"jpg": _file(number), "txt": words(number).encode(), "json": json.dumps(facts).encode()}
                for end, data in parts.items():
                    info = tarfile.TarInfo(f"{number:09d}.{end}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


def _rows(options, medium):
    """Rows of a table by the names of the columns that the options give."""
    columns = {"image": "image", "text": "text", "prompt_column": ""} | options
    for number in range(SCENES):
        row = {columns["image"]: medium(number), columns["text"]: words(number)}
        yield row | ({columns["prompt_column"]: QUESTION} if columns["prompt_column"] else {})


def _table(path, rows):
    if path.endswith(".csv"):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        _lines(path, rows)


def _paths(options):
    for _, name in _names(options):
        _pictures(_folder(options, name), "{}.jpg".format)
        rows = list(_rows(options, "{}.jpg".format))
        _table(name, rows if name.endswith(".csv") else [*rows, {"image": "0.jpg"}])


def _columns(options):
    import pyarrow.parquet

    struct = pyarrow.table(_by_column(_rows(options, lambda number: {"bytes": _file(number), "path": None})))
    for _, name in _names(options):
        pyarrow.parquet.write_table(struct, name, row_group_size=8)


def _by_column(rows):
    rows = list(rows)
    return {column: [row[column] for row in rows] for column in rows[0]}


def _arrow(options):
    import pyarrow

    table = pyarrow.table(_by_column(_rows(options, lambda number: {"bytes": _file(number), "path": None})))
    for _, name in _names(options):
        Path(name).mkdir(parents=True, exist_ok=True)
        stored = f"{name}/data-00000-of-00001.arrow"
        with pyarrow.OSFile(stored, "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=8)
        _json(f"{name}/state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"})


def _mmc4(options):
    for shard, name in _names(options):
        _pictures(_folder(options, name), "{}.png".format)
        pages = [
            {
                "text_list": ["Two things.", f"The first is {words(number)}.", f"The second is {words(number + 1)}."],
                "image_info": [{"image_name": f"{n % SCENES}.png"} for n in (number, number + 1)],
                "similarity_matrix": [[0.1, 0.31, 0.2], [0.1, 0.2, 0.29]],
            }
            for number in range(shard, SCENES, 2)
        ]
        _lines(name, [*pages, {"text_list": ["No picture."], "image_info": [], "similarity_matrix": []}])


def _obelics(options):
    import pyarrow.parquet

    def name_of(number):
        return f"https://example.org/{number}.jpg"

    for _, name in _names(options):
        folder = _folder(options, name)
        _pictures(folder, lambda number: hashlib.sha256(name_of(number).encode()).hexdigest() + ".jpg")
        pages = {
            "images": [[name_of(number), None, name_of((number + 1) % SCENES), None] for number in range(SCENES)],
            "texts": [[None, words(number), None, words(number + 1)] for number in range(SCENES)],
        }
        pyarrow.parquet.write_table(pyarrow.table(pages), name)


def _llava(options):
    for _, name in _names(options):
        _pictures(_folder(options, name), "{}.jpg".format)
        turns = [
            [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": words(number)}]
            for number in range(SCENES)
        ]
        _json(name, [{"id": str(n), "image": f"{n}.jpg", "conversations": said} for n, said in enumerate(turns)])


def _chat(options):
    for _, name in _names(options):
        _pictures(_folder(options, name), "{}.jpg".format)
        chats = [
            [
                {"role": "user", "content": "<image> and <image>: what is the second?"},
                {"role": "assistant", "content": words(number + 1)},
                {"role": "user", "content": "And the first?"},
                {"role": "assistant", "content": words(number)},
            ]
            for number in range(SCENES)
        ]
        pairs = [[f"{n}.jpg", f"{(n + 1) % SCENES}.jpg"] for n in range(SCENES)]
        _lines(name, [{"messages": said, "images": shown} for said, shown in zip(chats, pairs, strict=True)])


def _video(options):
    for _, name in _names(options):
        folder = _folder(options, name)
        for number in range(SCENES):
            _write_video(folder / f"{number}.mp4", number)
        _table(name, list(_rows({"image": "video"} | options, "{}.mp4".format)))


def _write_video(path, number):
    """Two scenes of two seconds, each moving to the right; the last file is cut off."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for frame in range(32):
            image = scene(number + frame // 16, shift=frame % 16)
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())
    if number == SCENES - 1:
        path.write_bytes(path.read_bytes()[:-2000])


def _coco(options):
    for _, name in _names(options):
        _pictures(_folder(options, name), "COCO_train2014_{:012d}.jpg".format)
        images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg"} for n in range(SCENES)]
        said = [
            {"id": 2 * n + k, "image_id": n, "caption": words(n) + "." * k} for k in range(2) for n in range(SCENES)
        ]
        _json(name, {"info": {}, "images": images, "licenses": [], "annotations": said})


def _karpathy(options):
    for _, name in _names(options):
        _pictures(_folder(options, name), "val2014/{}.jpg".format)
        images = [
            {
                "filepath": "val2014",
                "filename": f"{number}.jpg",
                "split": ("train", "restval", "test")[number % 3],
                "sentences": [{"raw": f"{words(number)}{end}"} for end in (".", " is shown.")],
            }
            for number in range(SCENES)
        ]
        _json(name, {"images": images, "dataset": "coco"})


def _flickr30k(options):
    for _, name in _names(options):
        _pictures(_folder(options, name), "{}.jpg".format)
        lines = [f"{number}.jpg#{k}\t{words(number)} ." for number in range(SCENES) for k in range(2)]
        Path(name).write_text("\n".join(lines))


def _vqa(options):
    for (_, name), answers in zip(_names(options), options["annotations"], strict=True):
        _pictures(_folder(options, name), "COCO_train2014_{:012d}.jpg".format)
        asked = [{"question_id": 100 + n, "image_id": n, "question": QUESTION} for n in range(SCENES)]
        said = [
            {"question_id": 100 + n, "answers": [{"answer": word} for word in ("?", shape(n), shape(n))]}
            for n in range(SCENES - 1)
        ]
        _json(name, {"data_subtype": "train2014", "questions": asked})
        _json(answers, {"data_subtype": "train2014", "annotations": said})


def _textvqa(options):
    for _, name in _names(options):
        _pictures(_folder(options, name), "{:016x}.jpg".format)
        data = [
            {"question_id": n, "image_id": f"{n:016x}", "question": QUESTION, "answers": ["?", shape(n), shape(n)]}
            for n in range(SCENES)
        ]
        _json(name, {"dataset_type": "train", "dataset_name": "textvqa", "data": data})
    for name in options.get("ocr", ()):
        read = [{"image_id": f"{n:016x}", "ocr_tokens": ["STOP", str(n)], "ocr_info": []} for n in range(SCENES)]
        _json(name, {"data": read})


def _nlvr2(options):
    for _, name in _names(options):
        folder = _folder(options, name)
        records = [
            {
                "identifier": f"train-{n}-0-0",
                "directory": n % 10,
                "sentence": f"The left one is {words(n if n % 2 else n + 1)}.",
                "label": "True" if n % 2 else "False",
            }
            for n in range(SCENES)
        ]
        for record in records:
            for side in range(2):
                number = int(record["identifier"].split("-")[1])
                path = folder / str(record["directory"]) / f"train-{number}-0-img{side}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_file((number + side) % SCENES))
        _lines(name, records)


def _image_folder(options):
    for _, name in _names(options):
        folder = Path(name)
        if options.get("text") == "txt":
            _pictures(folder, "{}.jpg".format)
            for number in range(SCENES):
                (folder / f"{number}.txt").write_text(words(number))
            continue
        _pictures(folder, lambda number: f"n{number % len(COLOURS):08d}/{number}.JPEG")
        _json(options["class_names"], {f"n{number:08d}": colour for number, colour in enumerate(COLOURS)})


def _records(name: str) -> Callable[[int], bytes]:
    def record(number):
        return serialize_example({"image": [_file(number)], name: [words(number).encode()]})

    return record


def _array_record(options):
    for shard, name in _names(options):
        _write_array_record(name, [_records("text")(number) for number in range(shard, SCENES, 2)])


def _tfds(options):
    for _, name in _names(options):
        Path(name).mkdir(parents=True, exist_ok=True)
        for shard in range(2):
            records = [_records(options["text"])(number) for number in range(shard, SCENES, 2)]
            _write_array_record(f"{name}/coco_captions-train.array_record-{shard:05d}-of-00002", records)


def _write_array_record(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(path, "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


_WRITERS = {
    "webdataset": _webdataset,
    "jsonl": _paths,
    "csv": _paths,
    "parquet": _columns,
    "arrow": _arrow,
    "mmc4": _mmc4,
    "obelics": _obelics,
    "llava": _llava,
    "chat": _chat,
    "video": _video,
    "coco": _coco,
    "karpathy": _karpathy,
    "flickr30k": _flickr30k,
    "vqa": _vqa,
    "textvqa": _textvqa,
    "nlvr2": _nlvr2,
    "image_folder": _image_folder,
    "array_record": _array_record,
    "tfds": _tfds,
}
