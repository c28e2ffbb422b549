"""Qwen2.5-VL against transformers: positions and windows of random grids, videos, and every way it is written."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.interop.calls.generation import write
from mmjax.interop.calls.packed import PACKED
from mmjax.interop.engine import export, load
from mmjax.models.encoders.patch_grids import patch_positions, window_segments
from mmjax.models.encoders.window_vit import pack_patches
from mmjax.models.grid_positions import IMAGE, TEXT, VIDEO, grid_positions
from mmjax.parallel.sharding import nested
from tests.parity.reference_models import build, check_export, relative_error, torch
from tests.quick import quick_jit

vision_utils = pytest.importorskip("transformers.vision_utils")

BEGIN, VIDEO_TOKEN, IMAGE_TOKEN = 37, 38, 39
TOKENS = {TEXT: None, IMAGE: IMAGE_TOKEN, VIDEO: VIDEO_TOKEN}
VISION = {
    "hidden_size": 24,
    "num_heads": 2,
    "intermediate_size": 22,
    "depth": 3,
    "out_hidden_size": 36,
    "patch_size": 2,
    "window_size": 8,
    "fullatt_block_indexes": [1],
    "tokens_per_second": 3,
}
TEXT_CONFIG = {
    "vocab_size": 40,
    "hidden_size": 36,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "intermediate_size": 30,
    "bos_token_id": None,
    "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 3, 1]},
}
KW = {"second_per_grid_ts": [0.7]}


@pytest.fixture(scope="module")
def model():
    return build(
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLConfig",
        3,
        vision_config=VISION,
        text_config=TEXT_CONFIG,
        image_token_id=IMAGE_TOKEN,
        video_token_id=VIDEO_TOKEN,
        vision_start_token_id=BEGIN,
    )


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen") / "reference"
    model.save_pretrained(folder)
    return folder


def random_row(random, kinds):
    """The kind of every token of a row, and the grids of its pictures and videos."""
    row, grids = [TEXT] * int(random.integers(1, 4)), {IMAGE: [], VIDEO: []}
    for kind in kinds:
        grid = [1 if kind == IMAGE else int(random.integers(1, 4)), *(2 * random.integers(1, 5, 2)).tolist()]
        row += [kind] * (np.prod(grid) // 4) + [TEXT] * int(random.integers(1, 5))
        grids[kind].append(grid)
    return row, grids


def random_batch(seed, rows):
    """Padded rows, before or after: kinds, what is there, grids, seconds."""
    random = np.random.default_rng(seed)
    made = [random_row(random, kinds) for kinds in rows]
    length = max(len(row) for row, _ in made) + 1
    kinds, present = np.zeros((2, len(rows), length), int)
    for number, (row, _) in enumerate(made):
        start = int(random.integers(0, length - len(row) + 1))
        kinds[number, start : start + len(row)] = row
        present[number, start : start + len(row)] = 1
    grids = {kind: np.array([grid for _, own in made for grid in own[kind]]) for kind in (IMAGE, VIDEO)}
    grids = {kind: own for kind, own in grids.items() if len(own)}
    seconds = random.uniform(0.1, 3, len(grids.get(VIDEO, ()))).astype(np.float32)
    return kinds, present, grids, seconds


@pytest.mark.parametrize("seed", range(12))
def test_positions(model, seed):
    random = np.random.default_rng(100 + seed)
    rows = [random.integers(1, 3, random.integers(0, 4)).tolist() for _ in range(3)] + [[IMAGE, VIDEO]]
    kinds, present, grids, seconds = random_batch(seed, rows)
    expected, deltas = model.model.get_rope_index(
        torch.tensor(kinds),
        torch.tensor(kinds),
        *(torch.tensor(grids[kind]) if kind in grids else None for kind in (IMAGE, VIDEO)),
        second_per_grid_ts=torch.tensor(seconds),
        attention_mask=torch.tensor(present),
    )
    found = grid_positions(kinds, grids, merge=2, present=present, tokens_per_second=3, seconds=seconds)
    assert np.array_equal(np.moveaxis(found, -1, 0), expected)
    assert np.array_equal(found.max((1, 2)) + 1 - present.sum(1), deltas[:, 0])


@pytest.mark.parametrize("seed", range(6))
def test_windows(seed):
    random = np.random.default_rng(seed)
    merge, cells = int(random.integers(1, 4)), int(random.integers(1, 4))
    grids = np.concatenate([random.integers(1, 3, (4, 1)), merge * random.integers(1, 8, (4, 2))], axis=1)
    index, ends = vision_utils.get_vision_window_index(torch.tensor(grids), merge, merge * cells * 5, 5)
    windows = window_segments(grids, merge, merge * cells)
    expected = index.numpy()[:, None] * merge**2 + np.arange(merge**2)
    assert np.array_equal(np.argsort(windows, kind="stable"), expected.reshape(-1))
    assert np.array_equal(np.cumsum(np.bincount(windows)), ends)
    expected = vision_utils.get_vision_position_ids(torch.tensor(grids), merge)
    assert np.array_equal(patch_positions(grids, merge), expected)


def make_call(seed):
    """Two rows with a picture and a video, and one of text, padded before as for `generate`."""
    random = np.random.default_rng(seed)
    kinds, present, grids, _ = random_batch(seed, [[IMAGE], [VIDEO, IMAGE], []])
    order = np.argsort(present, axis=1, kind="stable")
    kinds, present = (np.take_along_axis(x, order, axis=1) for x in (kinds, present))
    tokens = random.integers(1, BEGIN, kinds.shape) * present
    tokens = np.where(kinds == IMAGE, IMAGE_TOKEN, np.where(kinds == VIDEO, VIDEO_TOKEN, tokens))
    arguments = {"input_ids": tokens, "attention_mask": present, "mm_token_type_ids": kinds}
    for kind, patches, name in (
        (IMAGE, "pixel_values", "image_grid_thw"),
        (VIDEO, "pixel_values_videos", "video_grid_thw"),
    ):
        arguments[name] = grids[kind]
        arguments[patches] = random.normal(size=(grids[kind].prod(1).sum(), 24)).astype(np.float32)
    return arguments


def of_reference(model, arguments):
    tensors = {name: torch.tensor(value) for name, value in arguments.items()}
    with torch.no_grad():
        return model(**tensors, **KW).logits


def test_videos(model, folder):
    """Beside pictures: features, logits, and what is written, with frames 0.7 seconds apart."""
    arguments, pretrained = make_call(1), load(folder)
    tensors = {name: torch.tensor(value) for name, value in arguments.items()}
    logits = of_reference(model, arguments)
    forward = quick_jit(lambda p: PACKED.methods["forward"](pretrained, p, arguments, KW)["logits"])
    there = arguments["attention_mask"].astype(bool)
    assert relative_error(np.asarray(forward(pretrained.parameters))[there], logits[there]) < 2e-5

    with torch.no_grad():
        features = model.get_video_features(tensors["pixel_values_videos"], tensors["video_grid_thw"])
    ours = PACKED.methods["get_video_features"](pretrained, pretrained.parameters, arguments, {})
    assert relative_error(ours["last_hidden_state"], features.last_hidden_state) < 2e-5
    assert relative_error(ours["pooler_output.0"], features.pooler_output[0]) < 2e-5

    seconds = torch.tensor(KW["second_per_grid_ts"])
    written = model.generate(**tensors, second_per_grid_ts=seconds, max_new_tokens=6, do_sample=False)
    prompt = PACKED.prompt(pretrained, pretrained.parameters, arguments, KW)
    found = write(PACKED.writer(pretrained, prompt), pretrained.parameters, prompt, {"max_new_tokens": 6}).sequences
    assert np.array_equal(found, written)


def test_one_call_of_rows(model, folder):
    """The model as it is trained: every row with the patches of its own pictures, in the order of the text."""
    arguments, pretrained = make_call(2), load(folder)
    logits = of_reference(model, arguments)
    at = 1  # a video, then a picture
    present = arguments["attention_mask"][at].astype(bool)
    tokens, kinds = arguments["input_ids"][at][present][None], arguments["mm_token_type_ids"][at][present][None]
    grids = {IMAGE: arguments["image_grid_thw"][1:], VIDEO: arguments["video_grid_thw"]}
    own = arguments["pixel_values"][arguments["image_grid_thw"][0].prod() :]
    patches = np.concatenate([arguments["pixel_values_videos"], own])
    packed = pack_patches(pretrained.config.vision, jnp.asarray(patches), np.concatenate([grids[VIDEO], grids[IMAGE]]))
    seconds = KW["second_per_grid_ts"]
    turned_by = grid_positions(kinds, grids, merge=2, tokens_per_second=3, seconds=seconds)
    length = tokens.shape[1]
    output = quick_jit(pretrained.model().apply)(
        nested(pretrained.parameters),
        packed,
        jnp.asarray(tokens, jnp.int32),
        jnp.arange(length, dtype=jnp.int32)[None],
        jnp.ones((1, length), jnp.int32),
        rope_positions=jnp.asarray(turned_by),
    )
    ours = np.asarray(output.hidden @ output.unembedding.T)[0]
    assert relative_error(ours, logits[at][torch.tensor(present)]) < 2e-5


def test_exports(model, folder):
    arguments = make_call(1)
    check_export(model, load(folder), folder.parent, lambda m: [of_reference(m, arguments)])


def test_older_spellings(folder, tmp_path):
    """The text's keys among the model's, "mrope", and the encoder's type not named: the same model, written back so."""
    current = load(folder)
    older = json.loads((folder / "config.json").read_text())
    text, vision = older.pop("text_config"), older["vision_config"]
    parameters = text.pop("rope_parameters")
    older |= {key: value for key, value in text.items() if key not in ("model_type", "layer_types")}
    older |= {"rope_theta": parameters["rope_theta"]}
    older["rope_scaling"] = {"type": "mrope", "mrope_section": parameters["mrope_section"]}
    older["vision_config"] = {key: value for key, value in vision.items() if key != "rope_parameters"}
    older["vision_config"] |= {"model_type": "qwen2_5_vl", "in_chans": 3}
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "config.json").write_text(json.dumps(older))
    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        name = f"model.{name}" if name.startswith("visual.") else name
        renamed[name.replace("model.", "model.language_model.") if ".visual" not in name else name] = tensor
    save_file(renamed, tmp_path / "older" / "model.safetensors")

    pretrained = load(tmp_path / "older")
    assert pretrained.config == current.config
    assert all(np.array_equal(value, current.parameters[path]) for path, value in pretrained.parameters.items())
    export(pretrained, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == older
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == renamed.keys()

    vision = dataclasses.replace(pretrained.config.vision, window=8)
    decoder = dataclasses.replace(pretrained.config.decoder, rope_sections=(1, 1, 4))
    changed = dataclasses.replace(pretrained.config, vision=vision, decoder=decoder)
    export(dataclasses.replace(pretrained, config=changed), tmp_path / "changed")
    assert load(tmp_path / "changed").config == changed
    assert "text_config" not in json.loads((tmp_path / "changed" / "config.json").read_text())
