"""`preprocessor_config.json` -> dataclasses, with the defaults that transformers' classes take for missing keys.

A checkpoint names its class (`image_processor_type`); an instance in `DEFAULTS` is that class's defaults. As
transformers has it, a switch that is null is off, whatever its default, and a key that is none of the class's settings
is left alone. Any other null counts as missing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mmjax.core.config import build, nearest
from mmjax.core.errors import ConfigError, InputError

_BILINEAR, _BICUBIC, _LANCZOS = (int(Image.Resampling[name]) for name in ("BILINEAR", "BICUBIC", "LANCZOS"))
_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class SizeRule:
    """What a picture is resized to: `height` and `width`, or one of the other rules. Pixels; areas for Qwen2-VL."""

    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    max_height: int | None = None
    max_width: int | None = None

    @property
    def exact(self) -> tuple[int, int] | None:
        """(height, width) where both are given."""
        return (self.height, self.width) if self.height and self.width else None


def _square(edge: int) -> SizeRule:
    return SizeRule(height=edge, width=edge)


@dataclasses.dataclass(frozen=True)
class PictureSettings:
    """Settings that all picture processors know; `image_seq_length` is the number of tokens a picture becomes."""

    size: SizeRule
    resample: int
    image_mean: float | tuple[float, ...]
    image_std: float | tuple[float, ...]
    default_to_square: bool = True
    crop_size: SizeRule | None = None
    pad_size: SizeRule | None = None
    rescale_factor: float = 1 / 255
    do_resize: bool = True
    do_center_crop: bool = False
    do_rescale: bool = True
    do_normalize: bool = True
    do_pad: bool = False
    do_convert_rgb: bool = False
    image_seq_length: int | None = None

    def __post_init__(self):
        if self.resample not in list(Image.Resampling):
            raise ConfigError(f"resample={self.resample} is no filter of Pillow: {[int(f) for f in Image.Resampling]}")
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != 3:
                raise ConfigError(f"{name} has {len(value)} numbers; give one for each of red, green and blue")
        if self.do_center_crop and (self.crop_size is None or self.crop_size.exact is None):
            raise ConfigError("do_center_crop is on, but crop_size does not give height and width")

    @property
    def numbers(self) -> dict[str, Any]:
        """The arguments of `pixels.normalize`."""
        return {
            "factor": self.rescale_factor if self.do_rescale else None,
            "mean": self.image_mean if self.do_normalize else None,
            "std": self.image_std if self.do_normalize else None,
        }


@dataclasses.dataclass(frozen=True)
class ConvNextSettings(PictureSettings):
    """ConvNeXt: below 384 pixels, the crop is `crop_pct` of what the picture is resized to."""

    crop_pct: float = 224 / 256


@dataclasses.dataclass(frozen=True)
class LlavaNextSettings(PictureSettings):
    """LLaVA-NeXT: the resolutions (height, width) among which a picture's is chosen."""

    image_grid_pinpoints: tuple[tuple[int, int], ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))

    def __post_init__(self):
        super().__post_init__()
        if not self.image_grid_pinpoints:
            raise ConfigError("image_grid_pinpoints is empty; give at least one resolution (height, width)")


@dataclasses.dataclass(frozen=True)
class MllamaSettings(PictureSettings):
    """Mllama: square tiles of `size`, at most `max_image_tiles` of them."""

    max_image_tiles: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.size.height is None or self.size.height != self.size.width:
            raise ConfigError("size of an Mllama checkpoint must give the same height and width")
        if not (self.do_resize and self.do_pad and self.max_image_tiles > 0):
            raise ConfigError("an Mllama checkpoint needs do_resize, do_pad and max_image_tiles of at least 1")


@dataclasses.dataclass(frozen=True)
class Gemma3Settings(PictureSettings):
    """Gemma 3: pan and scan adds up to `max_num_crops` crops of a long picture to the whole of it."""

    do_pan_and_scan: bool = False
    pan_and_scan_min_crop_size: int = 256
    pan_and_scan_max_num_crops: int = 4
    pan_and_scan_min_ratio_to_activate: float = 1.2


@dataclasses.dataclass(frozen=True)
class Idefics3Settings(PictureSettings):
    """Idefics3 and SmolVLM: pictures are cut into squares of `max_image_size.longest_edge`, the whole comes last."""

    max_image_size: SizeRule = SizeRule(longest_edge=364)
    do_image_splitting: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.max_image_size.longest_edge:
            raise ConfigError("max_image_size must give longest_edge, the edge of a tile")
        if not self.do_pad:
            raise ConfigError("do_pad=false is not supported here: pictures of several sizes do not make one array")


@dataclasses.dataclass(frozen=True)
class Qwen2VLSettings(PictureSettings):
    """Qwen2-VL: `size` bounds the pixels (`shortest_edge` and `longest_edge` are areas here); patches are flattened."""

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2

    def __post_init__(self):
        super().__post_init__()
        if not (self.size.shortest_edge and self.size.longest_edge):
            raise ConfigError("size of a Qwen2-VL checkpoint must give shortest_edge and longest_edge, both in pixels")


def _clip(cls: type = PictureSettings, **others: Any) -> PictureSettings:
    """The defaults of CLIP's processor, from which others take theirs."""
    settings: dict[str, Any] = {
        "size": SizeRule(shortest_edge=224),
        "resample": _BICUBIC,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
        "default_to_square": False,
        "do_convert_rgb": True,
    }
    return cls(**settings | others)


_CROPPED: dict[str, Any] = {"do_center_crop": True, "crop_size": _square(224)}
_IDEFICS3 = _clip(
    Idefics3Settings,
    size=SizeRule(longest_edge=4 * 364),
    resample=_LANCZOS,
    image_mean=_HALF,
    image_std=_HALF,
    default_to_square=True,
    do_pad=True,
)

DEFAULTS: dict[str, PictureSettings] = {
    "ViTImageProcessor": PictureSettings(_square(224), _BILINEAR, _HALF, _HALF),
    "CLIPImageProcessor": _clip(**_CROPPED),
    "SiglipImageProcessor": _clip(size=_square(224), image_mean=_HALF, image_std=_HALF),
    "BitImageProcessor": _clip(**_CROPPED),
    "ConvNextImageProcessor": ConvNextSettings(
        SizeRule(shortest_edge=384), _BICUBIC, _HALF, _HALF, default_to_square=False
    ),
    "BlipImageProcessor": _clip(size=_square(384), default_to_square=True),
    "IdeficsImageProcessor": _clip(size=_square(224), default_to_square=True),
    "MllamaImageProcessor": MllamaSettings(_square(224), _BILINEAR, _HALF, _HALF, do_convert_rgb=True, do_pad=True),
    "LlavaImageProcessor": _clip(**_CROPPED),
    "LlavaNextImageProcessor": _clip(LlavaNextSettings, **_CROPPED, do_pad=True),
    "Gemma3ImageProcessor": Gemma3Settings(_square(224), _BILINEAR, _HALF, _HALF, do_convert_rgb=True),
    "Idefics3ImageProcessor": _IDEFICS3,
    "SmolVLMImageProcessor": _IDEFICS3,
    "Qwen2VLImageProcessor": _clip(Qwen2VLSettings, size=SizeRule(shortest_edge=56 * 56, longest_edge=28 * 28 * 1280)),
}


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; {} where there is no file.

    Raises:
      InputError: the file is not JSON, or holds no object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def processor_tree(folder: str | Path) -> tuple[Mapping[str, Any], str]:
    """The settings of a checkpoint's picture processor as its files give them, and the place where they stand.

    That is the `image_processor` part of `processor_config.json`, or else `preprocessor_config.json`.

    Raises:
      InputError: the folder has neither, or a file cannot be read.
    """
    folder = Path(folder)
    both = read_json(folder / "processor_config.json")
    if "image_processor" in both:
        return both["image_processor"], f"{folder / 'processor_config.json'}: image_processor"
    tree = read_json(folder / "preprocessor_config.json")
    if not tree:
        raise InputError(f"{folder} says nothing of pictures: it has no preprocessor_config.json")
    return tree, str(folder / "preprocessor_config.json")


def class_name(tree: Mapping[str, Any], where: str) -> str:
    """The class that the settings name, as in `DEFAULTS`: the suffixes Fast and Pil, and FeatureExtractor, fall away.

    Raises:
      InputError: no class is named, or one that is not known; those that are known are listed.
    """
    given = tree.get("image_processor_type") or tree.get("feature_extractor_type")
    if not isinstance(given, str):
        raise InputError(f"{where} has no image_processor_type; set it to one of {', '.join(DEFAULTS)}")
    name = given.removesuffix("Fast").removesuffix("Pil")
    if name.endswith("FeatureExtractor"):
        name = name.removesuffix("FeatureExtractor") + "ImageProcessor"
    if name not in DEFAULTS:
        raise InputError(f"{where} has image_processor_type={given!r}; known are {', '.join(DEFAULTS)}")
    return name


def build_settings(name: str, tree: Mapping[str, Any], where: str) -> PictureSettings:
    """The settings of the class `name` with those of `tree` in place of its defaults.

    Raises:
      ConfigError: a value of the wrong type, or values that contradict; the key is named.
    """
    default = DEFAULTS[name]
    given = {key: value for key, value in tree.items() if value is not None}
    if name == "IdeficsImageProcessor" and "image_size" in given:
        given["size"] = given["image_size"]
    if name == "Qwen2VLImageProcessor":
        given["size"] = _pixel_bounds(given, default.size)
    if name == "CLIPImageProcessor" and given.get("use_square_size"):
        given["size"] = dataclasses.asdict(_square(default.size.shortest_edge))
    fields = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    values = {key: value for key, value in given.items() if key in fields}
    values |= {key: False for key in tree.keys() & fields if tree[key] is None and isinstance(fields[key], bool)}
    for key in ("size", "crop_size", "pad_size", "max_image_size"):
        if key in values:
            square = key != "size" or values.get("default_to_square", default.default_to_square)
            values[key] = _size_tree(values[key], square, f"{where}.{key}")
    return build(type(default), fields | values, where)


def _pixel_bounds(given: Mapping[str, Any], default: SizeRule) -> Any:
    """Qwen2-VL's older keys `min_pixels` and `max_pixels` go before those of `size`."""
    size = given.get("size", {"shortest_edge": default.shortest_edge, "longest_edge": default.longest_edge})
    if not isinstance(size, Mapping):
        return size
    bounds = {"shortest_edge": given.get("min_pixels"), "longest_edge": given.get("max_pixels")}
    return {**size, **{key: value for key, value in bounds.items() if value is not None}}


def _size_tree(value: Any, square: bool, where: str) -> Any:
    """Older files give a size as one number or as a pair (height, width)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"height": value, "width": value} if square else {"shortest_edge": value}
    if isinstance(value, list) and len(value) == 2:
        return {"height": value[0], "width": value[1]}
    known = [field.name for field in dataclasses.fields(SizeRule)]
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; give a number, a pair, or some of {', '.join(known)}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}.{key} is not part of a size{nearest(key, known)}")
    return {key: edge for key, edge in value.items() if edge is not None}
