"""Small files in the layouts of real data sets, for the tests of their readers."""

import io
import json
import tarfile

import av
import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from mmjax.core.config import build
from mmjax.core.example import Media, Text
from mmjax.data.sources.kinds import SOURCES

SIZE = 16
COUNT = 6  # examples that each of WRITERS writes
COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta", "white", "black")


def picture(number, kind="JPEG", side=24, mode="RGB"):
    """The bytes of a picture file of one colour, that of its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), COLOURS[number % len(COLOURS)]).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path, files):
    """An archive of (name, bytes) pairs; a name with a `tarfile.TarInfo` for bytes is added as that."""
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def make(kind, **options):
    config, reader = SOURCES[kind]
    return reader(build(config, options), name="data", seed=0, image_size=SIZE)


def colour(medium):
    """The name of the colour of a medium's first frame."""
    mean = medium.load()[0].reshape(-1, 3).mean(axis=0)
    found = [np.abs(mean - np.array(Image.new("RGB", (1, 1), name))[0, 0]).max() for name in COLOURS]
    assert min(found) < 12
    return COLOURS[int(np.argmin(found))]


def spelled(segments):
    """Segments as a text: [colour] for a picture, learned texts in <>, the end of a chunk as a pilcrow."""
    words = []
    for segment in segments:
        if isinstance(segment, Media):
            words.append(f"[{colour(segment)}]")
        else:
            assert isinstance(segment, Text)
            words.append(f"<{segment.text}>" if segment.loss else segment.text)
            words.append("¶" * segment.end_of_chunk)
    return "".join(words)


def read(source, index):
    return spelled(source.load(index, 0).segments)


def table(count, first=0):
    """As `datasets` lays out a picture: a struct of bytes and path."""
    images = [{"bytes": picture(number), "path": None} for number in range(first, first + count)]
    return pyarrow.table(
        {"image": images, "text": [f"row {number}" for number in range(first, first + count)], "n": [1] * count}
    )


def saved_dataset(folder, tables):
    """As `datasets.Dataset.save_to_disk` lays it out."""
    folder.mkdir()
    names = []
    for number, part in enumerate(tables):
        names.append(f"data-{number:05d}-of-{len(tables):05d}.arrow")
        with pyarrow.OSFile(str(folder / names[-1]), "wb") as file, pyarrow.ipc.new_stream(file, part.schema) as writer:
            for batch in part.to_batches(max_chunksize=2):
                writer.write_batch(batch)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name} for name in names], "_split": "train"})
    )
    (folder / "dataset_info.json").write_text("{}")


def webdataset(folder):
    files = [
        (f"{number}.{end}", data)
        for number in range(COUNT)
        for end, data in (("jpg", picture(number)), ("txt", b"tar %d" % number))
    ]
    return {"paths": [write_tar(folder / "0.tar", files)]}


def write_lines(folder, records):
    for number in range(COUNT):
        (folder / f"{number}.jpg").write_bytes(picture(number))
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return {"paths": [str(folder / "a.jsonl")]}


def jsonl(folder):
    return write_lines(folder, [{"image": f"{number}.jpg", "text": f"line {number}"} for number in range(COUNT)])


def csv(folder):
    write_lines(folder, [])
    rows = [f"{number}.jpg,row {number}" for number in range(COUNT)]
    (folder / "a.csv").write_text("\n".join(["image,text", *rows]))
    return {"paths": [str(folder / "a.csv")]}


def parquet(folder):
    pyarrow.parquet.write_table(table(COUNT), folder / "a.parquet", row_group_size=4)
    return {"paths": [str(folder / "a.parquet")]}


def arrow(folder):
    saved_dataset(folder / "train", [table(COUNT)])
    return {"paths": [str(folder / "train")]}


def mmc4(folder):
    pages = [
        {
            "text_list": ["A.", f"B{number}."],
            "image_info": [{"image_name": f"{number}.jpg"}],
            "similarity_matrix": [[0.1, 0.3]],
        }
        for number in range(COUNT)
    ]
    return write_lines(folder, pages) | {"min_bytes": 0}


def obelics(folder):
    struct = pyarrow.list_(pyarrow.struct([("bytes", pyarrow.binary())]))
    images = pyarrow.array([[{"bytes": picture(number)}, None] for number in range(COUNT)], struct)
    texts = pyarrow.array([[None, f"page {number}"] for number in range(COUNT)])
    pyarrow.parquet.write_table(pyarrow.table({"images": images, "texts": texts}), folder / "a.parquet")
    return {"paths": [str(folder / "a.parquet")]}


def llava(folder):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    return write_lines(folder, [{"image": f"{number}.jpg", "conversations": turns} for number in range(COUNT)]) | {
        "system": ""
    }


def chat(folder):
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "That."}]
    return write_lines(folder, [{"images": [f"{number}.jpg"], "messages": turns} for number in range(COUNT)]) | {
        "system": ""
    }


def varint(number):
    digits = []
    while number >= 128:
        digits.append(number % 128 + 128)
        number //= 128
    return bytes([*digits, number])


def field(number, data):
    return varint(number * 8 + 2) + varint(len(data)) + data


def example(**features):
    """A serialized tf.train.Example: bytes, or lists of bytes; a number becomes an int64 list."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, int):
            made = field(3, varint(8) + varint(value))
        else:
            made = field(1, b"".join(field(1, item) for item in (value if isinstance(value, list) else [value])))
        entries += field(1, field(1, name.replace("__", "/").encode()) + field(2, made))
    return field(1, entries)


def write_array_record(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_tfrecord(path, records):
    """The checksums are not written: nobody of ours reads them."""
    path.write_bytes(b"".join(len(record).to_bytes(8, "little") + bytes(4) + record + bytes(4) for record in records))


def array_record(folder):
    records = [example(image=picture(number), text=b"record %d" % number, id=number) for number in range(COUNT)]
    write_array_record(folder / "a.array_record", records)
    return {"paths": [str(folder / "a.array_record")]}


def tfds(folder):
    records = [
        example(image=picture(number), captions__text=[b"caption %d" % number, b"other"], image_id=300 + number)
        for number in range(COUNT)
    ]
    version = folder / "coco" / "1.1.0"
    version.mkdir(parents=True)
    (version / "features.json").write_text("{}")
    for shard in range(2):
        write_array_record(version / f"coco-train.array_record-{shard:05d}-of-00002", records[shard::2])
    write_tfrecord(version / "coco-val.tfrecord-00000-of-00001", records[:3])
    return {"paths": [str(version)], "text": "captions/text"}


def pictures(folder, names):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture(number, "PNG" if name.endswith("png") else "JPEG"))
    return str(folder)


def write_json(path, value):
    path.write_text(json.dumps(value))
    return str(path)


def coco(folder):
    """As captions_train2014.json; the captions of a picture do not stand together."""
    names = [f"COCO_train2014_{9 + number:012d}.jpg" for number in range(COUNT // 2)]
    whole = {
        "info": {"year": 2014, "version": "1.0"},
        "images": [{"license": 5, "file_name": name, "height": 24, "id": 9 + n} for n, name in enumerate(names)],
        "licenses": [{"id": 1, "name": "[CC] {BY}"}],
        "annotations": [
            {"image_id": 9 + number % len(names), "id": 48 + number, "caption": f"Caption {number}. "}
            for number in range(COUNT)
        ],
    }
    images = pictures(folder / "train2014", names)
    return {"paths": [write_json(folder / "captions_train2014.json", whole)], "images": images}


def karpathy(folder):
    """As dataset_coco.json: five sentences a picture, of which two here."""
    names = ["COCO_val2014_000000000007.jpg", "a.jpg", "COCO_train2014_000000000008.jpg", "COCO_val2014_9.jpg"]
    splits = ["train", "test", "restval", "train"]
    images = [
        {
            "filepath": "val2014",
            "sentids": [2 * number, 2 * number + 1],
            "filename": name,
            "imgid": number,
            "split": split,
            "sentences": [
                {"tokens": ["a"], "raw": f"Sentence {number}{letter}.", "imgid": number, "sentid": 0} for letter in "ab"
            ],
            "cocoid": 7,
        }
        for number, (name, split) in enumerate(zip(names, splits, strict=True))
    ]
    path = write_json(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return {"paths": [path], "images": pictures(folder / "coco", [f"val2014/{names[0]}", names[1], *names[2:]])}


def flickr30k(folder):
    names = ["1000092795.jpg", "10002456.jpg"]
    lines = [f"{names[number // 3]}#{number % 3}\tCaption {number} ." for number in range(COUNT)]
    (folder / "results_20130124.token").write_text("\n".join(lines) + "\n")
    return {"paths": [str(folder / "results_20130124.token")], "images": pictures(folder / "flickr30k-images", names)}


def vqa(folder):
    """As VQAv2's files; here the answers lie in another order than the questions."""
    numbers = range(COUNT)
    questions = [{"image_id": 25, "question": f"What is {n}?", "question_id": 25000 + n} for n in numbers]
    annotations = [
        {
            "question_type": "what is",
            "multiple_choice_answer": "net",
            "answers": [
                {"answer": answer, "answer_confidence": "maybe", "answer_id": place}
                for place, answer in enumerate(["a", f"net {n}", f"net {n}", "b"], 1)
            ],
            "image_id": 25,
            "answer_type": "other",
            "question_id": 25000 + n,
        }
        for n in reversed(numbers)
    ]
    asked = {"info": {}, "task_type": "Open-Ended", "data_subtype": "train2014", "questions": questions}
    answered = {"info": {}, "license": {}, "annotations": annotations, "data_type": "mscoco"}
    return {
        "paths": [write_json(folder / "v2_OpenEnded_mscoco_train2014_questions.json", asked)],
        "annotations": [write_json(folder / "v2_mscoco_train2014_annotations.json", answered)],
        "images": pictures(folder / "train2014", ["COCO_train2014_000000000025.jpg"]),
    }


def textvqa(folder):
    names = [f"0054c91397f2fe0{number}" for number in range(2)]
    data = [
        {
            "question": f"What brand is {number}?",
            "image_id": names[number % 2],
            "image_classes": ["Belt"],
            "flickr_original_url": "https://x/y.jpg",
            "answers": ["nokia", f"Toshiba {number}", f"Toshiba {number}"],
            "question_id": number,
            "set_name": "train",
        }
        for number in range(COUNT)
    ]
    whole = {"dataset_type": "train", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": data}
    return {
        "paths": [write_json(folder / "TextVQA_0.5.1_train.json", whole)],
        "images": pictures(folder / "train_images", [f"{name}.jpg" for name in names]),
    }


def nlvr2(folder):
    records = [
        {
            "sentence": f"There are {number} dogs.",
            "left_url": "https://x/y.jpg",
            "label": str(number % 2 == 0),
            "identifier": f"train-{number}-0-1",
            "directory": 35,
        }
        for number in range(COUNT)
    ]
    write_lines(folder, records)
    (folder / "a.jsonl").rename(folder / "train.json")
    names = [f"{35 if n < 3 else '.'}/train-{n}-0-img{side}.png" for n in range(COUNT) for side in range(2)]
    return {"paths": [str(folder / "train.json")], "images": pictures(folder / "train", names)}


def image_folder(folder):
    """Folders of classes, and what else lies in such."""
    pictures(folder / "train", [f"{('guide_dog', 'wolf')[number % 2]}/{number}.JPEG" for number in range(COUNT)])
    (folder / "train" / "wolf" / "note.md").write_text("wolves")
    return {"paths": [str(folder / "train")]}


def write_video(path, colours, *, frames=5, rate=5, side=(64, 48), codec="mpeg4"):
    """A video that shows each colour (their numbers) for so many frames."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, options={"g": "10"})
        stream.width, stream.height = side
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        for number in colours:
            pixels = np.array(Image.new("RGB", side, COLOURS[number % len(COLOURS)]))
            for _ in range(frames):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return str(path)


def video(folder):
    for number in range(COUNT):
        write_video(folder / f"{number}.mp4", [number], frames=3)
    return write_lines(folder, [{"video": f"{number}.mp4", "text": f"clip {number}"} for number in range(COUNT)]) | {
        "video": {"frames": 1}
    }


WRITERS = {
    writer.__name__: writer
    for writer in (
        *(webdataset, jsonl, csv, parquet, arrow, mmc4, obelics, llava, chat, array_record, tfds),
        *(coco, karpathy, flickr30k, vqa, textvqa, nlvr2, image_folder, video),
    )
}
