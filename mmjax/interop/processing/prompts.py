"""The processor of a released checkpoint, read from its files: prompts and pictures -> token ids and arrays.

Prompts are texts in which a placeholder, spelled as the checkpoint spells it, stands for each picture. Ids come without
padding, as lists, since lengths differ; what is padded there (IDEFICS) is padded here, and has an attention mask.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.config import build
from mmjax.core.errors import InputError
from mmjax.interop.processing.media_masks import idefics_mask, mllama_mask
from mmjax.interop.processing.pictures import Arrays, PictureProcessor, as_rows, read_picture_processor
from mmjax.interop.processing.pixels import Picture
from mmjax.interop.processing.placeholders import REPLACEMENTS, Context, PromptSettings
from mmjax.interop.processing.settings import (
    Gemma3Settings,
    Idefics3Settings,
    LlavaNextSettings,
    MllamaSettings,
    Qwen2VLSettings,
    read_json,
)
from mmjax.interop.processing.tokens import PromptTokenizer, read_tokenizer

Pictures = Picture | Sequence[Picture] | Sequence[Sequence[Picture]]
Rows = list[list[Picture]]

IMAGE_TOKENS = {
    "Qwen2VLProcessor": "<|image_pad|>",
    "Qwen2_5_VLProcessor": "<|image_pad|>",
    "MllamaProcessor": "<|image|>",
}
# Pictures stand before the text, whatever the text says: one a prompt.
IN_FRONT = ("Blip2Processor", "InstructBlipProcessor")
# Texts and pictures go in as one list.
LISTED = ("IdeficsProcessor",)
_FAKE = "<fake_token_around_image>"
_COUNTS = ("num_crops", "rows", "cols", "num_tiles")  # only the prompt needs them, not the model


@dataclasses.dataclass(frozen=True)
class PromptProcessor:
    """What a checkpoint does to prompts with pictures: the class that it names, its settings, and its two sides.

    `qformer` is the second tokenizer of InstructBLIP; `begins` are the tokens that the texts of an encoder's decoder
    begin with. Settings are changed by `dataclasses.replace`, e.g. `pictures`
    with Gemma 3's pan and scan, which transformers leaves off in prompts, whatever the files say.
    """

    name: str
    settings: PromptSettings
    pictures: PictureProcessor
    tokenizer: PromptTokenizer
    qformer: PromptTokenizer | None = None
    begins: tuple[int, ...] = ()

    def __call__(self, prompts: str | Sequence[str], pictures: Pictures | None = None) -> Arrays:
        """Ids and arrays under the names of transformers.

        `prompts`: one or several; for IDEFICS each is a list of texts and pictures in their order. `pictures`: those of
        all prompts in the order of their placeholders, or a list for each prompt. The picture arrays are those of
        `pictures.PictureProcessor`. To them come `input_ids`, and by class: `token_type_ids` (Gemma 3) or
        `mm_token_type_ids` (Qwen2-VL), 1 for a picture's tokens; `cross_attention_mask` (Mllama);
        `image_attention_mask` and `attention_mask` (IDEFICS); `qformer_input_ids` (InstructBLIP). OpenFlamingo's names
        are `lang_x` and `vision_x`, and those of an encoder's decoder `decoder_input_ids` and `pixel_values`.

        Raises:
          InputError: placeholders and pictures are not as many, or a picture cannot be taken.
          DataError: a picture's file cannot be decoded.
        """
        return LAYOUTS[self.name](self, [prompts] if isinstance(prompts, str) else list(prompts), pictures)

    @property
    def image_token(self) -> str:
        """How the token is spelled at which the model puts a picture's features."""
        default = IMAGE_TOKENS.get(self.name, self.settings.image_token)
        return self.tokenizer.named.get("image_token", default)

    @property
    def placeholder(self) -> str:
        """What stands for a picture in a prompt."""
        return self.tokenizer.spelling("boi_token") if self.name == "Gemma3Processor" else self.image_token


def _assigned(processor: PromptProcessor, prompts: list[str], pictures: Pictures | None) -> Rows:
    """The pictures of each prompt: a flat list is dealt out by the placeholders."""
    counts = [prompt.count(processor.placeholder) for prompt in prompts]
    rows = [[] for _ in prompts] if pictures is None else as_rows(pictures)
    if len(rows) == 1 < len(prompts):
        ends = list(itertools.accumulate(counts))
        starts = [0, *ends[:-1]]
        cut = [rows[0][start:end] for start, end in zip(starts, ends, strict=True)]
        cut[-1] += rows[0][ends[-1] :]
        rows = cut
    if [len(row) for row in rows] != counts:
        raise InputError(
            f"the prompts have {counts} placeholders {processor.placeholder!r} for {[len(row) for row in rows]} "
            "pictures; there must be one for each picture, in the prompt that the picture belongs to"
        )
    return rows


def _arrays(processor: PromptProcessor, rows: Rows) -> Arrays:
    return processor.pictures(rows) if any(rows) else {}


def _for_model(arrays: Arrays) -> Arrays:
    return {name: value for name, value in arrays.items() if name not in _COUNTS}


def _expanded(processor: PromptProcessor, prompts: list[str], pictures: Pictures | None) -> Arrays:
    """Placeholders give way to a token for each feature: LLaVA, PaliGemma, Gemma 3, Idefics3, Qwen2-VL."""
    if processor.name == "PaliGemmaProcessor":
        prompts = _paligemma_texts(processor, prompts, pictures)
    arrays = _arrays(processor, _assigned(processor, prompts, pictures))
    context = Context(
        processor.settings, processor.pictures.settings, processor.tokenizer, arrays, processor.image_token
    )
    number = itertools.count()
    texts = []
    for prompt in prompts:
        first, *others = prompt.split(processor.placeholder)
        replaced = [REPLACEMENTS[processor.name](context, next(number)) + other for other in others]
        texts.append("".join([first, *replaced]))
    special = processor.name != "PaliGemmaProcessor"  # its BOS stands after the pictures, in the text
    ids = [processor.tokenizer.encode(text, special=special) for text in texts]
    result = {"input_ids": ids, **_for_model(arrays)}
    if processor.name in _TYPE_IDS:
        image = processor.tokenizer.id_of(processor.image_token)
        result[_TYPE_IDS[processor.name]] = [[int(token == image) for token in row] for row in ids]
    return result


_TYPE_IDS = {
    "Gemma3Processor": "token_type_ids",
    "Qwen2VLProcessor": "mm_token_type_ids",
    "Qwen2_5_VLProcessor": "mm_token_type_ids",
}


def _paligemma_texts(processor, prompts, pictures):
    """Pictures, BOS, text, newline; where no prompt has a placeholder, they stand before the text, one a prompt."""
    token, bos = processor.image_token, processor.tokenizer.spelling("bos_token")
    held = [token in prompt for prompt in prompts]
    if not any(held):
        rows = as_rows(pictures) if pictures is not None else []
        if len(rows) == 1 and len(rows[0]) == len(prompts):
            rows = [[picture] for picture in rows[0]]
        if len(rows) != len(prompts) or not all(rows):
            raise InputError(f"PaliGemma needs a picture for each of the {len(prompts)} prompts")
        return [f"{token * len(row)}{bos}{prompt}\n" for prompt, row in zip(prompts, rows, strict=True)]
    if not all(held):
        raise InputError(
            f"some prompts have the placeholder {token!r} and some have none; give all or none of them one"
        )
    ends = [prompt.rfind(token) + len(token) for prompt in prompts]
    return [f"{prompt[:end]}{bos}{prompt[end:]}\n" for prompt, end in zip(prompts, ends, strict=True)]


def _beside(processor: PromptProcessor, prompts: list[str], pictures: Pictures | None) -> Arrays:
    """Texts and pictures apart: CLIP, SigLIP."""
    arrays = {} if pictures is None else processor.pictures(pictures)
    return {"input_ids": [processor.tokenizer.encode(prompt) for prompt in prompts], **arrays}


def _in_front(processor: PromptProcessor, prompts: list[str], pictures: Pictures | None) -> Arrays:
    """A token for each query before the text, even before its BOS: BLIP-2, InstructBLIP."""
    count = 0 if pictures is None else processor.settings.num_query_tokens or 0
    queries = [processor.tokenizer.id_of("<image>")] * count
    result = {"input_ids": [queries + processor.tokenizer.encode(prompt) for prompt in prompts]}
    if processor.qformer is not None:
        result["qformer_input_ids"] = [processor.qformer.encode(prompt) for prompt in prompts]
    return result | ({} if pictures is None else processor.pictures(pictures))


def _mllama(processor: PromptProcessor, prompts: list[str], pictures: Pictures | None) -> Arrays:
    """One token a picture, which cross-attention begins at; a BOS after leading pictures, where the text has none."""
    rows = _assigned(processor, prompts, pictures)
    token, bos = processor.image_token, processor.tokenizer.spelling("bos_token")
    texts = []
    for prompt in prompts:
        rest = prompt
        while rest.startswith(token):
            rest = rest[len(token) :]
        leading = prompt[: len(prompt) - len(rest)]
        texts.append(prompt if bos in prompt else f"{leading}{bos}{rest}")
    ids = [processor.tokenizer.encode(text) for text in texts]
    arrays = _arrays(processor, rows)
    result = {"input_ids": ids, **_for_model(arrays)}
    if arrays:
        image, tiles = processor.tokenizer.id_of(token), arrays["aspect_ratio_mask"].shape[-1]
        result["cross_attention_mask"] = mllama_mask(ids, image, arrays["num_tiles"], tiles)
    return result


def _idefics(processor: PromptProcessor, prompts: list[Any], pictures: Pictures | None) -> Arrays:
    """Each prompt is a list of texts and pictures; rows of ids and of pictures are padded to the longest.

    As in transformers 5, no <end_of_utterance> is added: a chat checkpoint's texts spell it.
    """
    if pictures is not None:
        raise InputError("the pictures of an IDEFICS prompt stand in the prompt itself, between its texts")
    tokenizer = processor.tokenizer
    prompts = [[prompt] if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    rows = [[item for item in prompt if not isinstance(item, str)] for prompt in prompts]
    texts = [tokenizer.spelling("bos_token") + _idefics_text(prompt) for prompt in prompts]
    ids = [tokenizer.encode(text, special=False) for text in texts]
    length, most = max(map(len, ids)), max(1, *map(len, rows))
    pad = tokenizer.id_of(tokenizer.spelling("pad_token"))
    tokens = np.full((len(ids), length), pad, np.int64)
    real = np.zeros((len(ids), length), np.int64)
    for b, row in enumerate(ids):
        place = slice(length - len(row), length) if tokenizer.pads_left else slice(0, len(row))
        tokens[b, place], real[b, place] = row, 1
    height, width = processor.pictures.settings.size.exact
    pixels = np.zeros((len(rows), most, 3, height, width), np.float32)
    for b, row in enumerate(rows):
        if row:
            pixels[b, : len(row)] = processor.pictures(row)["pixel_values"]
    eos = tokenizer.id_of(tokenizer.spelling("eos_token"))
    mask = idefics_mask(tokens, tokenizer.id_of("<image>"), eos, most)
    return {"input_ids": tokens, "attention_mask": real, "pixel_values": pixels, "image_attention_mask": mask}


def _idefics_text(items):
    """Pictures stand between fake tokens, of which two that follow one another share one."""
    text, after_picture = "", False
    for item in items:
        is_text = isinstance(item, str)
        if is_text:
            text += item.strip(" ")
        else:
            text += f"<image>{_FAKE}" if after_picture else f"{_FAKE}<image>{_FAKE}"
        after_picture = not is_text
    return text


def _open_flamingo(processor: PromptProcessor, prompts: list[str], pictures: Pictures | None) -> Arrays:
    """One token a picture, which the text after it looks at: `vision_x` [B, N, 1, 3, h, w], zeros where it is none."""
    rows = _assigned(processor, prompts, pictures)
    settings = processor.pictures.settings
    size = settings.crop_size.exact if settings.do_center_crop else settings.size.exact
    if size is None:
        raise InputError("the pictures of OpenFlamingo are of one size; set do_center_crop and crop_size")
    vision = np.zeros((len(rows), max(1, *map(len, rows)), 1, 3, *size), np.float32)
    for b, row in enumerate(rows):
        if row:
            vision[b, : len(row), 0] = processor.pictures(row)["pixel_values"]
    return {"lang_x": [processor.tokenizer.encode(prompt) for prompt in prompts], "vision_x": vision}


def _captioned(processor: PromptProcessor, prompts: list[str], pictures: Pictures | None) -> Arrays:
    """Texts that begin as all of the decoder's do, and what the encoder sees."""
    arrays = {} if pictures is None else processor.pictures(pictures)
    texts = [processor.tokenizer.encode(prompt, special=False) for prompt in prompts]
    return {"decoder_input_ids": [[*processor.begins, *text] for text in texts], **arrays}


LAYOUTS: dict[str, Callable[[PromptProcessor, list[Any], Pictures | None], Arrays]] = {
    "CLIPProcessor": _beside,
    "SiglipProcessor": _beside,
    **dict.fromkeys(REPLACEMENTS, _expanded),
    **dict.fromkeys(IN_FRONT, _in_front),
    "MllamaProcessor": _mllama,
    **dict.fromkeys(LISTED, _idefics),
    "OpenFlamingo": _open_flamingo,
    "VisionEncoderDecoder": _captioned,
}
# Without a class of processor of their own: what their files name is that of their pictures or their text.
_WITHOUT_CLASS = {"open_flamingo": "OpenFlamingo", "vision-encoder-decoder": "VisionEncoderDecoder"}
_BY_MODEL_TYPE = {
    "clip": "CLIPProcessor",
    "siglip": "SiglipProcessor",
    "llava": "LlavaProcessor",
    "llava_next": "LlavaNextProcessor",
    "paligemma": "PaliGemmaProcessor",
    "gemma3": "Gemma3Processor",
    "idefics3": "Idefics3Processor",
    "smolvlm": "SmolVLMProcessor",
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "blip-2": "Blip2Processor",
    "instructblip": "InstructBlipProcessor",
    "mllama": "MllamaProcessor",
    "idefics": "IdeficsProcessor",
}
_PICTURE_SIDE = {
    "LlavaNextProcessor": LlavaNextSettings,
    "Gemma3Processor": Gemma3Settings,
    "Idefics3Processor": Idefics3Settings,
    "SmolVLMProcessor": Idefics3Settings,
    "Qwen2VLProcessor": Qwen2VLSettings,
    "Qwen2_5_VLProcessor": Qwen2VLSettings,
    "MllamaProcessor": MllamaSettings,
}
# What a class sets on its picture side, whatever that side's own settings say.
_OVERRIDES: dict[str, dict[str, Any]] = {
    "LlavaNextProcessor": {"do_pad": True},
    "Gemma3Processor": {
        "do_convert_rgb": True,
        "do_pan_and_scan": False,
        "pan_and_scan_min_crop_size": 256,
        "pan_and_scan_max_num_crops": 4,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    },
}
_ADDED = {
    "PaliGemmaProcessor": [f"<loc{number:04d}>" for number in range(1024)]
    + [f"<seg{number:03d}>" for number in range(128)],
}
_ADDED_SPECIAL = {
    "PaliGemmaProcessor": ["<image>"],
    "Blip2Processor": ["<image>"],
    "InstructBlipProcessor": ["<image>"],
    "Idefics3Processor": [_FAKE, "<image>", "<end_of_utterance>"],
    "OpenFlamingo": ["<|endofchunk|>", "<image>"],
}


def read_prompt_processor(folder: str | Path) -> PromptProcessor:
    """The processor of the checkpoint in `folder`, in the layout of transformers, old or new.

    Its class stands in processor_config.json, preprocessor_config.json or tokenizer_config.json, or else follows from
    the `model_type` of config.json.

    Raises:
      InputError: a file is missing or broken, or the class is not known (those that are known are listed).
    """
    folder = Path(folder)
    files = [folder / f"{stem}_config.json" for stem in ("processor", "preprocessor", "tokenizer")]
    trees = [read_json(path) for path in files]
    config = read_json(folder / "config.json")
    named = [tree["processor_class"] for tree in trees if tree.get("processor_class")]
    name = named[0] if named else _BY_MODEL_TYPE.get(config.get("model_type"))
    name = _WITHOUT_CLASS.get(config.get("model_type"), name)
    if name not in LAYOUTS:
        raise InputError(
            f"{folder} has the processor_class {name!r}; known are {', '.join(LAYOUTS)}. It stands in {files[0].name}"
        )
    fields = {field.name for field in dataclasses.fields(PromptSettings)}
    given = {key: value for key, value in trees[0].items() if key in fields and value is not None}
    settings = build(PromptSettings, given, str(files[0]))
    if name in ("LlavaProcessor", "LlavaNextProcessor") and not settings.patch_size:
        raise InputError(f"{files[0]} has no patch_size; set it to that of the vision tower")
    pictures = read_picture_processor(folder)
    if not isinstance(pictures.settings, _PICTURE_SIDE.get(name, object)):
        raise InputError(f"{folder}: {name} and {pictures.name} do not go together; one of the two names is wrong")
    changed = dataclasses.replace(pictures.settings, **_OVERRIDES.get(name, {}))
    tokenizer = read_tokenizer(folder)
    tokenizer.ensure(_ADDED_SPECIAL.get(name, []), special=True)
    tokenizer.ensure(_ADDED.get(name, []), special=False)
    if name == "OpenFlamingo":
        _check_tokens(tokenizer, config)
    qformer = read_tokenizer(folder / "qformer_tokenizer") if name == "InstructBlipProcessor" else None
    start = config.get("decoder_start_token_id") if name == "VisionEncoderDecoder" else None
    begins = () if start is None else (start,)
    return PromptProcessor(name, settings, dataclasses.replace(pictures, settings=changed), tokenizer, qformer, begins)


def _check_tokens(tokenizer: PromptTokenizer, config: Mapping[str, Any]) -> None:
    """The tokens that config.json names must be those that the tokenizer writes."""
    for key, token in (("media_token_id", "<image>"), ("eoc_token_id", "<|endofchunk|>")):
        if tokenizer.id_of(token) != config.get(key):
            raise InputError(
                f"config.json has {key}={config.get(key)}, but {token} is {tokenizer.id_of(token)} in the tokenizer of "
                f"{tokenizer.where}; both must be those of the language model that the weights were trained upon"
            )
