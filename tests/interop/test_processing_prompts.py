"""Prompts with pictures from a checkpoint's files: the ids, masks and arrays of transformers' own processors."""

import dataclasses
import json
import types

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors, trainers

from mmjax.core.errors import InputError
from mmjax.interop.processing import sizes
from mmjax.interop.processing.media_masks import idefics_mask, mllama_mask
from mmjax.interop.processing.pictures import PictureProcessor
from mmjax.interop.processing.placeholders import REPLACEMENTS, Context, PromptSettings
from mmjax.interop.processing.prompts import LAYOUTS, read_prompt_processor
from mmjax.interop.processing.settings import DEFAULTS
from mmjax.interop.processing.tokens import read_tokenizer
from mmjax.models.connectors.tiles import best_resolution, unpadded
from tests.interop.picture_samples import ALL
from tests.parity.reference_models import transformers

SENTENCES = [
    "A red car stands before a blue house, and two dogs sleep in the shade.",
    "What is in the picture? Describe it in one sentence.\n\nAssistant: a cat on a mat.",
]
SPECIAL = [
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<boi>",
    "<soft>",
    "<eoi>",
    "<|image|>",
    "<|python_tag|>",
    "<|image_pad|>",
]
SPECIAL += ["<|video_pad|>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
SPECIAL += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
CLIP = {"crop_size": {"height": 28, "width": 28}, "size": {"shortest_edge": 28}}
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
SQUARE = {"size": {"height": 28, "width": 28}}


def tokenizer(special=SPECIAL, bos=True, **names):
    """A byte-level BPE with a BOS before every text, as the reference's class for any tokenizer.json."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES | names)


def pictures_side(name, **settings):
    return getattr(transformers, f"{name}Pil")(**settings)


def both(folder, reference):
    """Our processor, read from the files that the reference writes."""
    reference.save_pretrained(folder)
    return read_prompt_processor(folder)


def assert_same(ours, theirs, *, leaving=("attention_mask",)):
    """The same names but those that say nothing without padding, and the same numbers."""
    assert ours.keys() == theirs.keys() - set(leaving)
    for name, value in ours.items():
        expected = theirs[name]
        if isinstance(value, np.ndarray):
            expected = np.stack([np.asarray(item) for item in expected])
            assert value.dtype == (np.float32 if name == "pixel_values" else np.int64), name
            np.testing.assert_array_equal(value, expected, err_msg=name)
        else:
            assert value == [list(row) for row in expected], name


def expanding(name, **settings):
    """Reference processors whose placeholders become many tokens, by class, and the placeholder of each."""
    if name == "LlavaProcessor":
        side = pictures_side("CLIPImageProcessor", **CLIP)
        return transformers.LlavaProcessor(side, tokenizer(), **{"patch_size": 14} | settings), "<image>"
    if name == "LlavaNextProcessor":
        side = pictures_side("LlavaNextImageProcessor", **CLIP, image_grid_pinpoints=PINPOINTS)
        return transformers.LlavaNextProcessor(side, tokenizer(), **{"patch_size": 7} | settings), "<image>"
    if name == "Gemma3Processor":
        side = pictures_side("Gemma3ImageProcessor", **SQUARE, do_pan_and_scan=True)
        names = {"boi_token": "<boi>", "image_token": "<soft>", "eoi_token": "<eoi>"}
        text = tokenizer(extra_special_tokens=names)
        return transformers.Gemma3Processor(side, text, image_seq_length=3), "<boi>"
    if name == "Idefics3Processor":
        edges = {"size": {"longest_edge": 40}, "max_image_size": {"longest_edge": 20}}
        side = pictures_side("Idefics3ImageProcessor", **edges, **settings)
        return transformers.Idefics3Processor(side, tokenizer(), image_seq_len=2), "<image>"
    side = pictures_side("Qwen2VLImageProcessor", size={"shortest_edge": 784, "longest_edge": 28 * 28 * 9})
    return getattr(transformers, name)(side, tokenizer(bos=False), _Video(), **settings), "<|image_pad|>"


class _Video(dict):
    """In the place of a video processor, which needs torchvision; as a dict it can be saved."""

    _auto_class = None


@pytest.fixture
def without_video(monkeypatch):
    """The reference checks the class of its video processor; there is none to be had."""
    check = transformers.ProcessorMixin.check_argument_for_proper_class

    def lenient(self, name, argument):
        return type(argument) if name == "video_processor" else check(self, name, argument)

    monkeypatch.setattr(transformers.ProcessorMixin, "check_argument_for_proper_class", lenient)


EXPANDING = [
    ("LlavaProcessor", {}),
    ("LlavaProcessor", {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}),
    ("LlavaProcessor", {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 1}),
    ("LlavaNextProcessor", {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}),
    ("LlavaNextProcessor", {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 3}),
    ("Gemma3Processor", {}),
    ("Idefics3Processor", {}),
    ("Idefics3Processor", {"do_image_splitting": False}),
    ("Qwen2VLProcessor", {}),
    ("Qwen2_5_VLProcessor", {}),
]


@pytest.mark.parametrize("name, settings", EXPANDING)
@pytest.mark.parametrize("kinds", [("odd",), ("very wide", "portrait", "tiny", "grey")])
def test_placeholders_become_the_tokens_of_the_reference(tmp_path, without_video, name, settings, kinds):
    reference, token = expanding(name, **settings)
    ours = both(tmp_path, reference)
    pictures = [ALL[kind] for kind in kinds]
    prompt = f"{token}What is in the picture?" + "".join(f"\nA red {token} car" for _ in kinds[1:])
    assert_same(ours(prompt, pictures), reference(text=prompt, images=pictures))


@pytest.mark.parametrize("name", ["LlavaProcessor", "LlavaNextProcessor", "Gemma3Processor", "Idefics3Processor"])
def test_several_prompts(tmp_path, name):
    reference, token = expanding(name)
    ours = both(tmp_path, reference)
    prompts = [f"{token} a cat", f"{token}{token} two dogs in the shade", f"a blue {token}"]
    rows = [[ALL["odd"]], [ALL["portrait"], ALL["alpha"]], [ALL["large"]]]
    flat = [picture for row in rows for picture in row]
    expected = reference(text=prompts, images=rows)
    assert_same(ours(prompts, rows), expected)
    assert_same(ours(prompts, flat), expected)


@pytest.mark.parametrize("name", ["LlavaProcessor", "Gemma3Processor", "Idefics3Processor", "Qwen2VLProcessor"])
def test_prompts_without_pictures(tmp_path, without_video, name):
    reference, _ = expanding(name)
    ours = both(tmp_path, reference)
    assert_same(ours("What is it?"), reference(text=["What is it?"]))


def test_gemma3_with_pan_and_scan(tmp_path):
    reference, _ = expanding("Gemma3Processor")
    ours = both(tmp_path, reference)
    scan = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 20}
    side = PictureProcessor(ours.pictures.name, dataclasses.replace(ours.pictures.settings, **scan))
    ours = dataclasses.replace(ours, pictures=side)
    pictures = [ALL["landscape"], ALL["square"], ALL["portrait"]]
    prompt = "<boi> and <boi> and <boi> here"
    result = ours(prompt, pictures)
    assert len(result["pixel_values"]) > 3
    assert_same(result, reference(text=prompt, images=[pictures], images_kwargs=scan))


def test_smolvlm_spells_pictures_as_the_reference(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    settings = PromptSettings(image_seq_len=3)
    arrays = {"rows": [[0], [2, 1]], "cols": [[0], [3, 2]]}
    context = Context(settings, DEFAULTS["SmolVLMImageProcessor"], read_tokenizer(tmp_path), arrays, "<image>")
    stand_in = types.SimpleNamespace(
        image_seq_len=3,
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        global_image_token="<global-img>",
    )
    for index in range(3):
        expected = transformers.SmolVLMProcessor.replace_image_token(stand_in, arrays, index)
        assert REPLACEMENTS["SmolVLMProcessor"](context, index) == expected


@pytest.fixture
def paligemma(tmp_path):
    side = pictures_side("SiglipImageProcessor", **SQUARE, image_seq_length=4)
    # Without a vocabulary for places and parts, which the reference then appends.
    reference = transformers.PaliGemmaProcessor(side, tokenizer(extra_special_tokens={"image_token": "<image>"}))
    return both(tmp_path, reference), reference


@pytest.mark.parametrize(
    "prompts, kinds",
    [
        (["<image>what is it"], ["odd"]),
        (["what is it <loc0003><seg001>"], ["odd"]),
        (["what is it", "caption en"], ["odd", "grey"]),
        (["<image>what is it", "<image> <image>caption"], ["odd", "grey", "alpha"]),
    ],
)
def test_paligemma_puts_pictures_before_the_bos_and_a_newline_after_the_text(paligemma, prompts, kinds):
    ours, reference = paligemma
    pictures = [ALL[kind] for kind in kinds]
    expected = dict(reference(text=prompts, images=pictures, padding=True))  # without, it takes only one prompt
    padded = zip(expected["input_ids"], expected["attention_mask"], strict=True)
    expected["input_ids"] = [np.asarray(row)[np.asarray(real) == 1].tolist() for row, real in padded]
    assert not np.any(expected["token_type_ids"])
    assert_same(ours(prompts, pictures), expected, leaving=("attention_mask", "token_type_ids", "labels"))


def test_paligemma_appends_its_tokens_where_they_are_missing(tmp_path):
    side = pictures_side("SiglipImageProcessor", **SQUARE, image_seq_length=4)
    without = [token for token in SPECIAL if token != "<image>"]
    tokenizer(without).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(side.to_dict(), default=dict))
    (tmp_path / "config.json").write_text('{"model_type": "paligemma"}')
    ours = read_prompt_processor(tmp_path)
    reference = transformers.PaliGemmaProcessor(side, tokenizer(without))
    expected = reference(text="<image>a <seg100> <loc1023>", images=ALL["odd"])
    assert ours("<image>a <seg100> <loc1023>", ALL["odd"])["input_ids"] == expected["input_ids"]


@pytest.mark.parametrize(
    "name, side", [("CLIPProcessor", "CLIPImageProcessor"), ("SiglipProcessor", "SiglipImageProcessor")]
)
def test_texts_beside_pictures(tmp_path, name, side):
    settings = CLIP if name == "CLIPProcessor" else SQUARE
    reference = getattr(transformers, name)(pictures_side(side, **settings), tokenizer())
    ours = both(tmp_path, reference)
    texts, pictures = ["a photo of a cat", "two dogs"], [ALL["odd"], ALL["grey"], ALL["alpha"]]
    assert_same(ours(texts, pictures), reference(text=texts, images=pictures))
    assert_same(ours(texts), reference(text=texts))


@pytest.mark.parametrize("queries", [None, 5])
def test_blip2_puts_its_queries_before_the_bos(tmp_path, queries):
    side = pictures_side("BlipImageProcessor", **SQUARE)
    reference = transformers.Blip2Processor(side, tokenizer(), num_query_tokens=queries)
    ours = both(tmp_path, reference)
    prompts, pictures = ["Question: what? Answer:", "a cat"], [ALL["odd"], ALL["grey"]]
    assert_same(ours(prompts, pictures), reference(text=prompts, images=pictures))
    assert_same(ours(prompts), reference(text=prompts))


def test_instructblip_reads_the_text_twice(tmp_path):
    side = pictures_side("BlipImageProcessor", **SQUARE)
    without = [token for token in SPECIAL if token != "<image>"]
    second = tokenizer(["<pad>", "<s>", "</s>"], bos=False, add_bos_token=True, add_eos_token=True)
    reference = transformers.InstructBlipProcessor(side, tokenizer(without), second, num_query_tokens=3)
    ours = both(tmp_path, reference)
    prompts, pictures = ["What is in the picture?", "a cat"], [ALL["odd"], ALL["grey"]]
    expected = reference(text=prompts, images=pictures)
    assert expected["qformer_input_ids"] != expected["input_ids"]
    assert_same(ours(prompts, pictures), expected, leaving=("attention_mask", "qformer_attention_mask"))


@pytest.mark.parametrize(
    "prompts, kinds",
    [
        (["<|image|>What is in the picture?"], [["odd"]]),
        (["<s><|image|>What?"], [["very wide"]]),
        (
            ["<|image|><|image|>two <|image|>and", "a <|image|>cat on a mat in the shade of a house"],
            [3 * ["odd"], ["tiny"]],
        ),
        (["a cat", "<|image|> two<|image|><|image|> dogs<|image|>"], [[], ["very tall", "grey", "large", "odd"]]),
    ],
)
def test_mllama_and_its_cross_attention_mask(tmp_path, prompts, kinds):
    side = pictures_side("MllamaImageProcessor", **SQUARE)
    reference = transformers.MllamaProcessor(side, tokenizer())
    ours = both(tmp_path, reference)
    rows = [[ALL[kind] for kind in row] for row in kinds]
    assert_same(ours(prompts, rows), reference(text=prompts, images=rows))
    assert_same(ours("What?"), reference(text="What?"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "prompts",
    [
        [["User:", "odd", "What is it? "]],
        [["a cat", "tiny", "grey", " and</s>", "two dogs", "very wide"], ["a", "two dogs"], ["large"]],
        [["a cat"], ["two dogs in the shade"]],
    ],
)
def test_idefics_pads_rows_and_masks_pictures(tmp_path, side, prompts):
    reference = transformers.IdeficsProcessor(
        pictures_side("IdeficsImageProcessor", image_size=28),
        tokenizer(padding_side=side),
        image_size=28,
    )
    ours = both(tmp_path, reference)
    prompts = [[ALL.get(item, item) for item in prompt] for prompt in prompts]
    theirs = {name: value.numpy() for name, value in reference(text=prompts).items()}
    # Where there is no picture at all, the reference has booleans.
    theirs["image_attention_mask"] = theirs["image_attention_mask"].astype(np.int64)
    assert_same(ours(prompts), theirs, leaving=())


def test_every_class_is_compared():
    compared = {name for name, _ in EXPANDING} | {"PaliGemmaProcessor", "SmolVLMProcessor", "CLIPProcessor"}
    compared |= {"SiglipProcessor", "Blip2Processor", "InstructBlipProcessor", "MllamaProcessor", "IdeficsProcessor"}
    compared |= {"OpenFlamingo", "VisionEncoderDecoder"}  # no classes of the reference: see test_pretrained
    assert compared == set(LAYOUTS)


def test_the_masks_of_their_docstrings():
    a, b, c = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
    mask = mllama_mask([[9, 1, 9, 9, 1, 1]], 9, [[1, 1, 1]], 1)
    np.testing.assert_array_equal(mask[0, :, :, 0].T, [a, b, c])
    mask = idefics_mask(np.array([[1, 9, 1, 2, 1, 9, 1]]), 9, 2, 2)
    np.testing.assert_array_equal(mask[0].T, [[0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1]])


def test_sizes_are_those_of_the_reference_for_any_picture():
    """Rounding differs by a pixel for few sizes only, so many are tried."""
    from transformers import image_processing_utils, image_transforms
    from transformers.models.idefics3 import image_processing_pil_idefics3 as idefics3
    from transformers.models.llava_next import modeling_llava_next as llava_next
    from transformers.models.mllama import image_processing_pil_mllama as mllama
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as qwen2_vl

    generator = np.random.default_rng(0)
    scan = {"smallest": 64, "most": 4, "ratio": 1.2}
    scanned = [f"pan_and_scan_{name}" for name in ("min_crop_size", "max_num_crops", "min_ratio_to_activate")]
    for height, width in np.exp(generator.uniform(0, 7.5, (3000, 2))).astype(int).tolist():
        size, edge = (height, width), int(generator.integers(8, 400))
        blank = np.broadcast_to(np.uint8(0), (3, *size))
        expected = image_transforms.get_resize_output_image_size(
            blank, edge, default_to_square=False, input_data_format="channels_first"
        )
        assert sizes.by_shortest_edge(size, edge) == expected
        expected = image_transforms.get_size_with_aspect_ratio(size, edge, int(1.7 * edge))
        assert sizes.by_shortest_edge(size, edge, int(1.7 * edge)) == expected
        resolution = image_processing_utils.select_best_resolution(size, PINPOINTS)
        assert tuple(best_resolution(size, PINPOINTS)) == tuple(resolution)
        grid = tuple(side // 14 * int(generator.integers(1, 7)) for side in resolution)
        numbers = np.arange(grid[0] * grid[1]).reshape(1, *grid)
        rows, columns = unpadded(size, grid)
        assert np.array_equal(numbers[:, rows, columns], llava_next.unpad_image(numbers, size))
        expected = image_processing_utils.get_patch_output_size(blank, resolution, "channels_first")
        assert sizes.anyres_fit(size, resolution) == expected
        canvas = mllama.get_optimal_tiled_canvas(*size, 5, edge)
        grid = sizes.mllama_grid(size, 5, edge)
        assert (grid[0] * edge, grid[1] * edge) == canvas
        assert sizes.mllama_fit(size, canvas, edge) == mllama.get_image_size_fit_to_canvas(*size, *canvas, edge)
        assert sizes.idefics3_resized(size, 14 * edge) == idefics3.get_resize_output_image_size(blank, 14 * edge)
        if max(size) / min(size) <= 200:
            bounds = (28, 56 * 56, 28 * 28 * 100)
            assert sizes.qwen2_resized(size, *bounds) == qwen2_vl.smart_resize(*size, *bounds)
        crops = transformers.Gemma3ImageProcessorPil().pan_and_scan(
            blank, **dict(zip(scanned, scan.values(), strict=True))
        )
        ours = sizes.pan_and_scan(size, **scan)
        assert [blank[:, y, x].shape for y, x in ours] == [crop.shape for crop in crops]


@pytest.mark.parametrize(
    "prompts, kinds, problem",
    [
        ("<image> and <image>", ["odd"], "placeholders '<image>' for"),
        ("a cat", ["odd"], "one for each picture"),
        ("<image> cat", None, "one for each picture"),
        (["<image>", "a"], ["odd", "odd"], "one for each picture"),
    ],
)
def test_placeholders_and_pictures_that_do_not_match(tmp_path, prompts, kinds, problem):
    reference, _ = expanding("LlavaProcessor")
    pictures = None if kinds is None else [ALL[kind] for kind in kinds]
    with pytest.raises(InputError, match=problem):
        both(tmp_path, reference)(prompts, pictures)


def test_the_pictures_of_idefics_stand_in_its_prompts(tmp_path):
    side = pictures_side("IdeficsImageProcessor", image_size=28)
    ours = both(tmp_path, transformers.IdeficsProcessor(side, tokenizer(), image_size=28))
    with pytest.raises(InputError, match="stand in the prompt itself"):
        ours(["a cat"], ALL["odd"])


def test_paligemma_must_say_how_many_tokens_a_picture_has(paligemma):
    ours, _ = paligemma
    side = PictureProcessor(ours.pictures.name, dataclasses.replace(ours.pictures.settings, image_seq_length=None))
    with pytest.raises(InputError, match="no image_seq_length"):
        dataclasses.replace(ours, pictures=side)("a cat", ALL["odd"])


def test_paligemma_needs_a_picture_for_each_prompt(paligemma):
    ours, _ = paligemma
    with pytest.raises(InputError, match="a picture for each of the 2 prompts"):
        ours(["a", "b"], [ALL["odd"]])
    with pytest.raises(InputError, match="all or none"):
        ours(["<image>a", "b"], [ALL["odd"]])


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"processor_class": "DonutProcessor"}, "DonutProcessor.*known are CLIPProcessor"),
        ({"processor_class": "MllamaProcessor"}, "MllamaProcessor and CLIPImageProcessor do not go together"),
        ({"patch_size": None}, "no patch_size"),
        ({"patch_size": "14"}, "patch_size must be a whole number"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, change, problem):
    expanding("LlavaProcessor")[0].save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=problem):
        read_prompt_processor(tmp_path)


def test_a_tokenizer_that_is_missing_broken_or_poor(tmp_path):
    expanding("Gemma3Processor")[0].save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "boi_token": None}))
    with pytest.raises(InputError, match="no boi_token"):
        read_prompt_processor(tmp_path)("<boi>", ALL["odd"])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"is not a tokenizer\.json"):
        read_prompt_processor(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        read_prompt_processor(tmp_path)
