"""Other loaders over the same pictures and texts, in an interpreter of their own, for `benchmarks/data_speed.py`.

    python -m benchmarks.data_rivals webdataset FOLDER

`webdataset` reads the tar file through torch's DataLoader; `tfdata`, which has no reader of tar, a TFRecord file of the
same pictures and texts, the format that tf.data is made for.
Each gives batches of pictures of 224 x 224 pixels, uint8, the middle cut out, and of their captions' bytes, padded:
what each one's own documentation shows for this. Both again with its quickest way to decode (`_fast`): the decoder of
mmjax in the one, the decoder's own reduced scale in the other.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.alternate import Work, serve

SIDE, LENGTH, BATCH = 224, 128, 32


def ids_of(text: bytes | str) -> np.ndarray:
    """A text's bytes as tokens, padded."""
    data = text.encode() if isinstance(text, str) else text
    ids = np.zeros(LENGTH, np.int32)
    ids[: len(data)] = np.frombuffer(data[:LENGTH], np.uint8)
    return ids


def webdataset(folder: Path, *, fast: bool = False) -> Work:
    """A tar file in order, decoded by Pillow, through torch's DataLoader in this process."""
    import torch
    import webdataset

    def by_pillow(data):
        import io

        from PIL import Image, ImageOps

        image = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC))

    def by_simplejpeg(data):
        import cv2
        import simplejpeg

        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=SIDE, min_width=SIDE)
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return cv2.resize(pixels[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)

    torch.set_num_threads(1)
    decode = by_simplejpeg if fast else by_pillow
    samples = webdataset.WebDataset(str(folder / "pictures.tar"), shardshuffle=False)
    samples = samples.to_tuple("jpg", "txt").map_tuple(decode, ids_of).batched(BATCH)
    loader = torch.utils.data.DataLoader(samples, batch_size=None, num_workers=0)
    return Work({"epoch": lambda: [len(texts) for _, texts in loader]})


def tfdata(folder: Path, *, fast: bool = False) -> Work:
    """A TFRecord file in order, decoded and resized by TensorFlow on one thread."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    features = {"image": tf.io.FixedLenFeature([], tf.string), "text": tf.io.FixedLenFeature([], tf.string)}

    def read(record):
        example = tf.io.parse_single_example(record, features)
        image = tf.io.decode_jpeg(example["image"], channels=3, ratio=2 if fast else 1)
        side = tf.minimum(tf.shape(image)[0], tf.shape(image)[1])
        image = tf.image.resize_with_crop_or_pad(image, side, side)
        image = tf.image.resize(image, (SIDE, SIDE), antialias=not fast)
        ids = tf.cast(tf.io.decode_raw(example["text"], tf.uint8), tf.int32)[:LENGTH]
        return tf.cast(tf.round(image), tf.uint8), tf.pad(ids, [[0, LENGTH - tf.shape(ids)[0]]])

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    records = tf.data.TFRecordDataset(str(folder / "pictures.tfrecord")).map(read).batch(BATCH).with_options(options)
    return Work({"epoch": lambda: [len(texts) for _, texts in records.as_numpy_iterator()]})


RIVALS = {
    "webdataset": webdataset,
    "webdataset_fast": lambda folder: webdataset(folder, fast=True),
    "tfdata": tfdata,
    "tfdata_fast": lambda folder: tfdata(folder, fast=True),
}

if __name__ == "__main__":
    serve(lambda: RIVALS[sys.argv[1]](Path(sys.argv[2])))
