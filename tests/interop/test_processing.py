"""Picture preprocessing from a checkpoint's files: the arrays of transformers' own processors, to the last bit."""

import json

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import ConfigError, DataError, InputError
from mmjax.interop.processing import sizes
from mmjax.interop.processing.pictures import PROCESSORS, ROW_PROCESSORS, read_picture_processor
from mmjax.interop.processing.settings import DEFAULTS
from tests.interop.picture_samples import ALL, OTHER, RGB, encoded, scene, turned_jpeg, with_alpha
from tests.parity.reference_models import transformers

CLIP = {"crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 32}}
SIZES = {"height": 40, "width": 28}

CASES = [
    ("ViTImageProcessor", {"size": SIZES}),
    (
        "ViTImageProcessor",
        {"size": 24, "resample": 3, "image_mean": 0.3, "image_std": 0.7, "rescale_factor": 1 / 127.5},
    ),
    ("ViTImageProcessor", {"size": SIZES, "do_normalize": False}),
    ("CLIPImageProcessor", CLIP),
    ("CLIPImageProcessor", {"size": 30, "crop_size": 45}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 30, "longest_edge": 41}, "crop_size": [20, 33], "resample": 1}),
    ("CLIPImageProcessor", {"do_resize": False, "crop_size": 41}),
    ("CLIPImageProcessor", {"use_square_size": True, "do_center_crop": False}),
    ("SiglipImageProcessor", {"size": SIZES}),
    ("SiglipImageProcessor", {"size": {"max_height": 300, "max_width": 310}, "do_pad": True}),
    ("SiglipImageProcessor", {"size": SIZES, "resample": 2, "do_convert_rgb": None, "image_seq_length": 4}),
    ("SiglipImageProcessor", {"size": None, "do_resize": None, "do_pad": True, "crop_size": None}),
    ("BitImageProcessor", CLIP | {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
    ("BitImageProcessor", {"size": {"shortest_edge": 25}, "crop_size": {"height": 25, "width": 50}, "do_pad": False}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 28}, "crop_pct": 0.875}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    ("ConvNextImageProcessor", {"size": 31, "resample": 2, "do_center_crop": True, "crop_size": 17}),
    ("BlipImageProcessor", {"size": SIZES}),
    (
        "BlipImageProcessor",
        {"size": {"height": 30, "width": 30}, "do_pad": True, "pad_size": {"height": 37, "width": 31}},
    ),
    ("IdeficsImageProcessor", {"image_size": 28, "image_num_channels": 3}),
    ("IdeficsImageProcessor", {"size": SIZES, "resample": 1}),
    ("LlavaImageProcessor", CLIP | {"do_pad": True}),
    ("LlavaImageProcessor", CLIP | {"do_pad": True, "image_mean": [0.2, 0.4, 0.9], "do_center_crop": False}),
    ("LlavaImageProcessor", CLIP),
    ("LlavaNextImageProcessor", CLIP | {"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]}),
    ("LlavaNextImageProcessor", {"size": SIZES, "crop_size": 28, "image_grid_pinpoints": [[56, 56], [28, 84]]}),
    ("Gemma3ImageProcessor", {"size": SIZES, "do_pan_and_scan": None, "pan_and_scan_min_crop_size": None}),
    (
        "Gemma3ImageProcessor",
        {
            "size": SIZES,
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": 25,
            "pan_and_scan_max_num_crops": 3,
            "pan_and_scan_min_ratio_to_activate": 1.2,
        },
    ),
    ("MllamaImageProcessor", {"size": {"height": 28, "width": 28}}),
    ("MllamaImageProcessor", {"size": {"height": 20, "width": 20}, "max_image_tiles": 6, "resample": 3}),
    ("Idefics3ImageProcessor", {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 14}}),
    ("Idefics3ImageProcessor", {"max_image_size": {"longest_edge": 28}, "do_image_splitting": False, "resample": 2}),
    ("SmolVLMImageProcessor", {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}),
    ("SmolVLMImageProcessor", {"size": SIZES, "max_image_size": {"longest_edge": 16}}),
    ("SmolVLMImageProcessor", {"size": SIZES, "max_image_size": {"longest_edge": 32}, "do_resize": False}),
    ("Qwen2VLImageProcessor", {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 10}),
    (
        "Qwen2VLImageProcessor",
        {"size": {"shortest_edge": 3136, "longest_edge": 20000}, "patch_size": 8, "temporal_patch_size": 1},
    ),
    ("Qwen2VLImageProcessor", {"merge_size": 1, "patch_size": 16, "temporal_patch_size": 3, "max_pixels": 50000}),
]


def save(folder, name, **settings):
    """A folder with the file of a picture processor as checkpoints have it."""
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": name, **settings}))
    return folder


def reference(name, folder):
    return getattr(transformers, f"{name}Pil").from_pretrained(folder)


def run_reference(processor, pictures):
    result = processor(pictures, return_tensors="np")
    return {"pixel_values": result} if not hasattr(result, "keys") else dict(result)


def assert_same(ours, theirs):
    """The same names, shapes and numbers; the reference's floats are compared as float32."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if not isinstance(ours[name], np.ndarray):
            assert ours[name] == value, name
            continue
        value = np.asarray(value)
        assert ours[name].shape == value.shape, name
        assert ours[name].dtype == (np.float32 if name == "pixel_values" else np.int64)
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def suitable(name, settings):
    """The pictures that the reference takes under these settings, one list a call."""
    converts = settings.get("do_convert_rgb", DEFAULTS[name].do_convert_rgb)
    pictures = list((ALL if converts else RGB).values())
    if name == "Qwen2VLImageProcessor":
        return [pictures]
    if settings.get("do_center_crop") is False or settings.get("pad_size"):
        return [[picture] for picture in pictures]
    return [pictures]


@pytest.mark.parametrize("name, settings", CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_the_arrays_of_the_reference(tmp_path, name, settings):
    save(tmp_path, name, **settings)
    ours, theirs = read_picture_processor(tmp_path), reference(name, tmp_path)
    if name in ("Idefics3ImageProcessor", "SmolVLMImageProcessor"):
        theirs.return_row_col_info = True
    for pictures in suitable(name, settings):
        assert_same(ours(pictures), run_reference(theirs, pictures))


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_the_reference(tmp_path, name):
    save(tmp_path, name)
    ours, theirs = read_picture_processor(tmp_path), reference(name, tmp_path)
    if name in ("Idefics3ImageProcessor", "SmolVLMImageProcessor"):
        theirs.return_row_col_info = True
    pictures = [RGB["large"], RGB["portrait"]]
    assert_same(ours(pictures), run_reference(theirs, pictures))


@pytest.mark.parametrize(
    "name, settings",
    [
        ("MllamaImageProcessor", {"size": {"height": 16, "width": 16}}),
        ("Idefics3ImageProcessor", {"size": {"longest_edge": 40}, "max_image_size": {"longest_edge": 20}}),
    ],
)
def test_rows_of_several_pictures(tmp_path, name, settings):
    save(tmp_path, name, **settings)
    ours, theirs = read_picture_processor(tmp_path), reference(name, tmp_path)
    theirs.return_row_col_info = True
    rows = [[RGB["large"]], [RGB["square"], ALL["grey"], RGB["very wide"]], [RGB["portrait"], RGB["odd"]]]
    assert_same(ours(rows), run_reference(theirs, rows))


def test_every_class_has_defaults_and_a_processor():
    assert DEFAULTS.keys() == PROCESSORS.keys() | ROW_PROCESSORS.keys()
    assert not PROCESSORS.keys() & ROW_PROCESSORS.keys()
    assert {name for name, _ in CASES} == set(DEFAULTS)
    assert len(ALL) == 20


def test_files_are_turned_and_lose_their_alpha_as_the_reference_loads_them(tmp_path):
    save(tmp_path, "CLIPImageProcessor", **CLIP)
    ours, theirs = read_picture_processor(tmp_path), reference("CLIPImageProcessor", tmp_path)
    files = [turned_jpeg(90, 60, orientation, orientation) for orientation in range(1, 9)]
    files += [encoded(with_alpha(scene(40, 50))), encoded(OTHER["clear colour"]), encoded(OTHER["palette"])]
    paths = [tmp_path / f"{number}" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    expected = run_reference(theirs, [str(path) for path in paths])
    assert_same(ours(paths), expected)
    assert_same(ours(files), expected)


def test_arrays(tmp_path):
    save(tmp_path, "SiglipImageProcessor", size=SIZES)
    ours, theirs = read_picture_processor(tmp_path), reference("SiglipImageProcessor", tmp_path)
    arrays = [np.asarray(RGB["odd"]), np.asarray(ALL["alpha"]), np.asarray(ALL["grey"])[..., None]]
    assert_same(ours(arrays), run_reference(theirs, arrays))
    flat = ours(np.asarray(ALL["grey"]))
    assert_same(ours(ALL["grey"]), flat)


def test_the_newer_file_comes_before_the_older_one(tmp_path):
    save(tmp_path, "CLIPImageProcessor")
    processor = transformers.SiglipImageProcessorPil(size={"height": 20, "width": 30})
    nested = {"processor_class": "SiglipProcessor", "image_processor": processor.to_dict()}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested, default=dict))
    ours, theirs = read_picture_processor(tmp_path), reference("SiglipImageProcessor", tmp_path)
    assert ours.name == "SiglipImageProcessor"
    assert_same(ours(RGB["odd"]), run_reference(theirs, RGB["odd"]))


@pytest.mark.parametrize("kind", ["image_processor_type", "feature_extractor_type"])
@pytest.mark.parametrize(
    "given", ["CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"]
)
def test_older_and_newer_names_of_a_class(tmp_path, kind, given):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({kind: given}))
    assert read_picture_processor(tmp_path).name == "CLIPImageProcessor"


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"image_processor_type": "DonutImageProcessor"}, "DonutImageProcessor.*known are ViTImageProcessor, CLIP"),
        ({"size": 224}, "no image_processor_type"),
        ({"size": {"high": 3}}, "size.high is not part of a size"),
        ({"size": "large"}, "size is 'large'"),
        ({"do_resize": "yes"}, "do_resize must be True or False"),
        ({"resample": 9}, "resample=9"),
        ({"image_mean": [0.5]}, "image_mean has 1 numbers"),
        (
            {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": []},
            "image_grid_pinpoints is empty",
        ),
        ({"crop_size": {"shortest_edge": 3}}, "crop_size does not give height and width"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, settings, problem):
    base = {} if "no image" in problem else {"image_processor_type": "CLIPImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(base | settings))
    with pytest.raises(InputError, match=problem):
        read_picture_processor(tmp_path)


def test_a_folder_without_a_processor_and_a_broken_file(tmp_path):
    with pytest.raises(InputError, match=r"no preprocessor_config\.json"):
        read_picture_processor(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(InputError, match="no JSON object"):
        read_picture_processor(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_picture_processor(tmp_path)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("MllamaImageProcessor", {"size": {"height": 20, "width": 30}}),
        ("MllamaImageProcessor", {"do_pad": False}),
        ("Idefics3ImageProcessor", {"max_image_size": {"height": 3, "width": 3}}),
        ("Idefics3ImageProcessor", {"do_pad": False}),
        ("Qwen2VLImageProcessor", {"size": {"height": 3, "width": 3}}),
        ("Qwen2VLImageProcessor", {"size": 224}),
    ],
)
def test_settings_that_contradict_are_refused_when_they_are_read(tmp_path, name, settings):
    with pytest.raises(ConfigError):
        read_picture_processor(save(tmp_path, name, **settings))


@pytest.mark.parametrize("picture", OTHER.values(), ids=OTHER)
def test_where_pictures_are_not_converted_only_rgb_is_taken(tmp_path, picture):
    save(tmp_path, "ViTImageProcessor", size=SIZES)
    with pytest.raises(InputError, match="takes RGB pictures as they are"):
        read_picture_processor(tmp_path)(picture)
    with pytest.raises(ValueError, match=r"mean must have|Unable to infer|axes don't match|Unsupported|cannot be"):
        run_reference(reference("ViTImageProcessor", tmp_path), [picture])


@pytest.mark.parametrize(
    "name, settings, picture, problem",
    [
        ("CLIPImageProcessor", {}, np.zeros((4, 5, 2), np.uint8), "uint8 .h, w, 3.*4, 5, 2"),
        ("CLIPImageProcessor", {}, np.zeros((4, 5, 3), np.float32), "not float32"),
        ("ViTImageProcessor", {}, np.zeros((4, 5), np.uint8), "takes RGB pictures as they are"),
        ("CLIPImageProcessor", {}, Image.new("F", (4, 4)), "floating-point"),
        ("CLIPImageProcessor", {}, 3, "not int"),
        ("CLIPImageProcessor", {}, [], "no picture"),
        ("MllamaImageProcessor", {}, [[], []], "no picture"),
        ("CLIPImageProcessor", {}, Image.new("RGB", (30_000, 1)), "less extreme"),
        ("CLIPImageProcessor", {"size": {"longest_edge": 40}}, RGB["odd"], "size must give"),
        ("CLIPImageProcessor", {"do_center_crop": False}, [RGB["odd"], RGB["tiny"]], "one at a time"),
        ("BlipImageProcessor", {"do_pad": True, "pad_size": 20}, RGB["odd"], "at least 384"),
        ("ConvNextImageProcessor", {"size": SIZES}, RGB["odd"], "shortest_edge"),
        ("LlavaNextImageProcessor", {"size": {"longest_edge": 4}, "crop_size": {}}, RGB["odd"], "shortest_edge"),
        ("Idefics3ImageProcessor", {"size": {"shortest_edge": 4}}, RGB["odd"], "longest_edge"),
        ("Qwen2VLImageProcessor", {}, Image.new("RGB", (401, 2)), "aspect above 200"),
        ("Qwen2VLImageProcessor", {"do_resize": False}, RGB["odd"], "multiple of 28"),
    ],
)
def test_a_picture_that_cannot_be_taken(tmp_path, name, settings, picture, problem):
    if "crop_size" in settings:
        settings = settings | {"do_center_crop": False}
    with pytest.raises(InputError, match=problem):
        read_picture_processor(save(tmp_path, name, **settings))(picture)


def test_files_are_decoded_under_the_limits_of_the_house(tmp_path):
    processor = read_picture_processor(save(tmp_path, "CLIPImageProcessor"))
    with pytest.raises(DataError) as caught:
        processor(b"no picture")
    assert caught.value.kind == "not_an_image"
    with pytest.raises(DataError) as caught:
        processor(encoded(RGB["large"])[:3000])
    assert caught.value.kind == "truncated"


def test_sixteen_bits_keep_their_high_bytes(tmp_path):
    processor = read_picture_processor(save(tmp_path, "ViTImageProcessor", do_normalize=False, rescale_factor=1.0))
    levels = np.arange(0, 65536, 4369, dtype=np.uint16).reshape(4, 4).repeat(56, 0).repeat(56, 1)
    values = processor(encoded(Image.fromarray(levels)))["pixel_values"]
    np.testing.assert_array_equal(values[0, 1], levels >> 8)


def test_tile_grids_are_numbered_by_rows_then_columns():
    assert sizes.tile_grids(4) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
