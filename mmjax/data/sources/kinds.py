"""Every kind of data that a config may name: its options, and its reader."""

from __future__ import annotations

from mmjax.data.digits import BindConfig, DigitsBind, DigitsRead, DigitsScene, ReadConfig, SceneConfig
from mmjax.data.sources import benchmarks, options
from mmjax.data.sources.captions import Coco, Flickr30k, Karpathy
from mmjax.data.sources.chat import Chat, Llava
from mmjax.data.sources.columns import Arrow, Parquet
from mmjax.data.sources.folders import ImageFolder
from mmjax.data.sources.pages import Mmc4, Obelics
from mmjax.data.sources.questions import Nlvr2, TextVqa, Vqa
from mmjax.data.sources.records import ArrayRecord, Tfds
from mmjax.data.sources.tables import Csv, Jsonl
from mmjax.data.sources.videos import Video
from mmjax.data.sources.webdataset import WebDataset

DIGITS = {
    "digits_read": (ReadConfig, DigitsRead),
    "digits_bind": (BindConfig, DigitsBind),
    "digits_scene": (SceneConfig, DigitsScene),
}
FILES = {
    "webdataset": (options.WebDatasetOptions, WebDataset),
    "jsonl": (options.JsonlOptions, Jsonl),
    "csv": (options.CsvOptions, Csv),
    "parquet": (options.TableOptions, Parquet),
    "arrow": (options.TableOptions, Arrow),
    "mmc4": (options.Mmc4Options, Mmc4),
    "obelics": (options.ObelicsOptions, Obelics),
    "llava": (options.LlavaOptions, Llava),
    "chat": (options.ChatOptions, Chat),
    "array_record": (options.ArrayRecordOptions, ArrayRecord),
    "tfds": (options.TfdsOptions, Tfds),
    "image_folder": (options.ImageFolderOptions, ImageFolder),
    "video": (options.VideoOptions, Video),
    "coco": (benchmarks.CaptionOptions, Coco),
    "karpathy": (benchmarks.KarpathyOptions, Karpathy),
    "flickr30k": (benchmarks.CaptionOptions, Flickr30k),
    "vqa": (benchmarks.VqaOptions, Vqa),
    "textvqa": (benchmarks.TextVqaOptions, TextVqa),
    "nlvr2": (benchmarks.Nlvr2Options, Nlvr2),
}
SOURCES = {**DIGITS, **FILES}
