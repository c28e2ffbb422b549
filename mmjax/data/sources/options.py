"""The options of each kind of data: what stands under `data.sources.NAME.options` of a config.

Paths of files may hold `{00000..00041}`, `{a,b}` and `*`; the order of files and of records in them is the order of the
examples. An example is known by its number in that order, so files are added at the end.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from mmjax.core.errors import ConfigError
from mmjax.data.images import MAX_PIXELS, Fit
from mmjax.data.transforms.augment import Augment
from mmjax.data.transforms.words import check_template
from mmjax.data.video import Sampling

# Options that say where files are, not what examples are made of them.
PLACES = ("paths", "images", "cache", "annotations", "ocr", "class_names", "chat_template")


@dataclasses.dataclass(frozen=True)
class FilesOptions:
    """Options of every kind that reads files.

    paths: the files. cache: folder of what is measured once (offsets, lengths); "" is `.mmjax` beside the first file.
    fit: how a picture fills its square (`mmjax.data.images.load_image`). max_pixels, min_side: pictures beyond are bad
    records. end_of_chunk: write the end-of-chunk token after the text of a picture (Flamingo).
    augment: transforms of pictures while training, drawn anew in each epoch. tiles: a picture becomes one frame of all
    of it and, by its shape, up to so many of a grid of its parts (`data.frames` must hold them all); 0: one frame.
    """

    paths: tuple[str, ...]
    cache: str = ""
    fit: Fit = "crop"
    max_pixels: int = MAX_PIXELS
    min_side: int = 2
    end_of_chunk: bool = True
    augment: Augment = dataclasses.field(default_factory=Augment)
    tiles: int = 0

    def __post_init__(self):
        if not self.paths:
            raise ConfigError("paths is empty: name the files, such as data/{00000..00041}.tar")
        if self.tiles < 0 or self.tiles == 1:
            raise ConfigError(f"tiles must be 0 (none) or at least 2, not {self.tiles}")
        for name in ("max_pixels", "min_side"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class PairOptions(FilesOptions):
    """Options of kinds whose example is pictures, then a text.

    prompt: a text before it, without loss. templates: one of them, drawn by the seed and the example's number, is
    learned with the text in it, whose place is {}. drop_words, typos: the probability that a word is left out, that a
    letter is mistyped; by the example's number too, so that lengths are the same in every epoch.
    """

    prompt: str = ""
    templates: tuple[str, ...] = ()
    drop_words: float = 0.0
    typos: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        for template in self.templates:
            check_template(template)
        for name in ("drop_words", "typos"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be between 0 and 1, not {getattr(self, name)}")

    @property
    def rewords(self) -> bool:
        """Whether texts are not as they stand in the files."""
        return bool(self.templates or self.drop_words or self.typos)


@dataclasses.dataclass(frozen=True)
class WebDatasetOptions(PairOptions):
    """`webdataset`: tar shards as img2dataset writes them, one picture and its text under one key.

    text: "txt" takes the .txt member; another word is a field of the .json member, such as "caption".
    """

    text: str = "txt"


@dataclasses.dataclass(frozen=True)
class TableOptions(PairOptions):
    """`csv`, `parquet`, `arrow`: one example a row.

    image: the column of the picture: a path, the file's bytes, or a struct of `bytes` and `path`; a list is several;
    "" is for texts alone. text: the column of the text. prompt_column: a column whose text comes before it (a
    question), "" for none; separator: what stands between the two, without loss.
    images: where paths of pictures begin: a folder, or tar files (as `paths`); "" is the folder of the file itself.
    """

    image: str = "image"
    text: str = "text"
    prompt_column: str = ""
    separator: str = ""
    images: str = ""


@dataclasses.dataclass(frozen=True)
class CsvOptions(TableOptions):
    """`csv`: a header, then rows as in RFC 4180 (quoted fields may hold line breaks)."""

    delimiter: str = ","

    def __post_init__(self):
        super().__post_init__()
        if len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '"\r\n':
            raise ConfigError(f"delimiter must be one ASCII character that is no quote, not {self.delimiter!r}")


@dataclasses.dataclass(frozen=True)
class JsonlOptions(TableOptions):
    """`jsonl`: an object a line, a pair or an interleaved page.

    A pair is {"image": PATH or [PATH], "text": "..."}, by the names that `image` and `text` give; a page is
    {"segments": [{"image": PATH}, {"text": "...", "loss": false}, ...]}, where the loss is true unless said.
    """


@dataclasses.dataclass(frozen=True)
class PageOptions(FilesOptions):
    """Options of interleaved pages.

    images: where pictures lie: a folder, or tar files (as `paths`); "" is the folder of the pages. Pictures that are
    not there are left out of their page. max_images: pictures past these are left out of a page, min_images: pages of
    fewer are left out.
    """

    images: str = ""
    max_images: int = 6
    min_images: int = 1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.min_images <= self.max_images or not self.max_images:
            raise ConfigError(
                f"min_images {self.min_images} must be from 0 to max_images {self.max_images}, which is at least 1"
            )


@dataclasses.dataclass(frozen=True)
class Mmc4Options(PageOptions):
    """`mmc4`: the JSONL shards of Multimodal C4 (Zhu et al. 2023) and a folder or tars of pictures by `image_name`.

    Each picture goes before one sentence: the one-to-one assignment of largest total similarity; pairs below
    min_similarity are dropped, as OpenFlamingo does. min_bytes: pictures of smaller files are left out before; its code
    wants more than 10 whole kB (of 1000 bytes). Its other filters stand in the entry of the data set:
    `max_tokens: 256, keep_single_image: 0.5`.
    """

    min_similarity: float = 0.24
    min_bytes: int = 11_000


@dataclasses.dataclass(frozen=True)
class ObelicsOptions(PageOptions):
    """`obelics`: Parquet of lists `images` and `texts`, of which one is null at each place (Laurencon et al. 2023).

    An item of `images` is the file's bytes, a struct of `bytes` and `path`, or a name. names: "path" takes the name
    as a path in the pictures' folder; "url_sha256" looks for a file named by the hexadecimal SHA-256 of the address
    (.jpg or that of another format), since the published lists hold addresses.
    """

    max_images: int = 30
    names: Literal["path", "url_sha256"] = "path"


Template = Literal["vicuna", "plain", "bare", "chatml", "llama3", "gemma", "mistral", "mistral_v1"]


@dataclasses.dataclass(frozen=True)
class ConversationOptions(FilesOptions):
    """Options of conversations. The loss is on the turns of the assistant alone.

    images: where pictures lie, as for pages. template: how turns are spelled (`mmjax.text.chat`): "vicuna" (LLaVA-1.5:
    `SYSTEM USER: ... ASSISTANT: ...`), "plain" (LLaVA's first stage: pictures and answers, no question), "bare"
    (question, line break, answer: PaliGemma), or with control words "chatml" (Qwen and others), "llama3", "gemma",
    "mistral" (from v0.3 on) and "mistral_v1" (`[INST]` as ordinary text: LLaVA-1.6). chat_template: the folder of a
    model, or its chat_template.jinja: that template is taken instead. system: replaces the template's own (a folder's
    gets it as a turn where there is none). marker, video_marker: stand in a text for the next picture, the next video;
    video: how one is shown.
    Where end_of_chunk is set, every answer but the last ends with that token, the last with the end token; LLaVA ends
    both alike by `tokenizer.special.end_of_chunk = "</s>"`.
    Templates with control words end every answer with their own; `tokenizer.special.eos` is to be that word.
    """

    images: str = ""
    template: Template = "vicuna"
    chat_template: str = ""
    system: str | None = None
    marker: str = "<image>"
    video_marker: str = "<video>"
    video: Sampling = dataclasses.field(default_factory=Sampling)

    def __post_init__(self):
        super().__post_init__()
        if not self.marker or not self.video_marker or self.marker == self.video_marker:
            raise ConfigError(f"marker {self.marker!r} and video_marker {self.video_marker!r} must be two words")


@dataclasses.dataclass(frozen=True)
class LlavaOptions(ConversationOptions):
    """`llava`: a JSON list (or JSONL) of {"image": PATH, "conversations": [{"from": "human", "value": ...}, ...]}.

    {"video": PATH} is a video, for which the marker of pictures may stand too, as in LLaVA-Video.
    """


@dataclasses.dataclass(frozen=True)
class ChatOptions(ConversationOptions):
    """`chat`: JSONL of ShareGPT ("conversations") or of {"messages": [{"role": ..., "content": ...}], "images": [...]}.

    content is a text, or a list of {"type": "text", "text": ...}, {"type": "image", "image": PATH} and
    {"type": "video", "video": PATH}; the record may name media beside the turns, under "images" and "videos". A message
    with "loss": true or false says for itself whether it is learned.
    """


@dataclasses.dataclass(frozen=True)
class ArrayRecordOptions(PairOptions):
    """`array_record`: each record a serialized tf.train.Example, or a JSON object, of `image` and `text`.

    Records that `mmjax data convert` wrote are whole examples: of the options, those of pictures count for them.
    """

    image: str = "image"
    text: str = "text"
    images: str = ""


@dataclasses.dataclass(frozen=True)
class TfdsOptions(PairOptions):
    """`tfds`: prepared data sets of TensorFlow Datasets, read without TensorFlow, from ArrayRecord or TFRecord files.

    paths: the folders of versions (`.../coco_captions/2014/1.1.0`). image, text: features, "a/b" for one within another
    (`captions/text`); the first of several counts.
    """

    split: str = "train"
    image: str = "image"
    text: str = "text"


@dataclasses.dataclass(frozen=True)
class ImageFolderOptions(PairOptions):
    """`image_folder`: `paths` names folders of pictures, those of classes or those above them.

    text: "class", the name of the picture's folder, its underscores as spaces (templates make a caption of it: "a photo
    of a {}"), or "txt", the text file beside the picture (a.jpg, a.txt). class_names: a JSON file of other names of the
    classes by their folders ({"n01440764": "tench"}).
    """

    text: Literal["class", "txt"] = "class"
    class_names: str = ""


@dataclasses.dataclass(frozen=True)
class VideoOptions(CsvOptions):
    """`video`: JSONL or CSV (files named .csv), a video and a text a row: {"video": PATH, "text": "..."}.

    image: the column of the video. images: where paths of videos begin. video: how one is shown; max_pixels and
    min_side are those of its frames.
    """

    image: str = "video"
    video: Sampling = dataclasses.field(default_factory=Sampling)
