"""Loading and exporting without a reference at hand: what is listed, what is refused, types, shards, meshes, bases."""

from __future__ import annotations

import dataclasses
import json
import math
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.core.errors import CheckpointError, InputError
from mmjax.interop.configs import read_config
from mmjax.interop.engine import Pretrained, export, inspect, load
from mmjax.interop.families import FAMILIES
from mmjax.interop.layout import lay_out
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.interop.published_sizes import PUBLISHED
from tests.models.plain_numpy import random_parameters

CONFIG = DecoderConfig(32, 16, 5, 4, 4, 24, kv_heads=2, tied_embeddings=False, windows=(3, None), norm_offset=1.0,
    norm_position="sandwich", activation="gelu_tanh", embedding_scale=True, attention_scale=0.25,
    attention_softcap=50.0, logits_softcap=30.0)  # fmt: skip


@pytest.fixture(scope="module")
def pretrained():
    """A random Gemma-2 with a tail and a head of its own."""
    family = FAMILIES["gemma2"]
    tokens = jnp.zeros((1, 1), jnp.int32)
    return Pretrained(family, CONFIG, random_parameters(family.model(CONFIG, jnp.float32), 1, tokens, tokens, tokens))


@pytest.fixture
def folder(pretrained, tmp_path):
    """It, exported."""
    export(pretrained, tmp_path / "it")
    return tmp_path / "it"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def assert_same_parameters(one, other):
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[path], other[path]) for path in one)


def test_round_trip(pretrained, folder):
    again = load(folder)
    assert again.family is pretrained.family
    assert again.config == pretrained.config
    assert_same_parameters(pretrained.parameters, again.parameters)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Gemma2ForCausalLM"]
    names = set(load_file(folder / "model.safetensors"))
    assert {"lm_head.weight", "model.layers.4.mlp.up_proj.weight"} <= names


def test_what_does_not_fit_is_listed_all_at_once(folder):
    def spoil(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"], tensors["model.norm.weight"]
        tensors["model.layers.9.mlp.up_proj.weight"] = np.zeros((2, 3), np.float32)
        tensors["model.layers.0.self_attn.k_proj.weight"] = np.zeros((3, 16), np.float32)
        tensors["model.layers.0.self_attn.v_proj.weight"] = np.zeros((8, 16), np.int32)
        return tensors

    edit_tensors(folder, spoil)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: model.layers.1.mlp.up_proj.weight [24, 16]",
        "  missing: model.norm.weight [16]",
        "  extra: model.layers.9.mlp.up_proj.weight [2, 3]",
        "  wrong shape: model.layers.0.self_attn.k_proj.weight is [3, 16], config.json says [8, 16]",
        "  wrong type: model.layers.0.self_attn.v_proj.weight is int32, not floating point",
    ]


def test_a_config_of_another_size_is_a_list_of_shapes(folder):
    edit_config(folder, intermediate_size=26, num_hidden_layers=6, layer_types=None)
    with pytest.raises(CheckpointError) as caught:
        inspect(folder)
    message = str(caught.value)
    assert message.count("wrong shape") == 5 * 3 and message.count("missing") == 11


def test_refusals_are_quick_and_clear(folder, tmp_path):
    edit_config(folder, model_type="bloom")
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"'bloom', which is not known; known are: .*llama"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match="must hold an object"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config.json"):
        load(folder)
    assert time.perf_counter() - start < 1


def test_a_large_file_that_is_cut_short_is_refused_at_once(folder):
    """Nothing but its header is read."""
    path = folder / "model.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(2**32)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"has 4294967296 bytes where its header says 8\d+; it is cut short"):
        load(folder)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)])
def test_half_precision_in_and_out(pretrained, tmp_path, dtype, numpy_dtype):
    """What was stored in half precision comes back bit for bit, through float32 parameters."""
    export(pretrained, tmp_path / "half", dtype=dtype)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {np.dtype(numpy_dtype)}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == dtype
    wide = load(tmp_path / "half")
    assert {value.dtype for value in wide.parameters.values()} == {jnp.dtype("float32")}
    export(wide, tmp_path / "again", dtype=dtype)
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(np.array_equal(stored[name], again[name]) for name in stored)
    narrow = load(tmp_path / "half", dtype=jnp.bfloat16)
    assert {value.dtype for value in narrow.parameters.values()} == {jnp.dtype("bfloat16")}


def test_straight_onto_a_mesh(pretrained, tmp_path):
    export(pretrained, tmp_path / "shards", max_shard_bytes=3000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 5
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    parameters = load(tmp_path / "shards", mesh=mesh).parameters
    assert_same_parameters(pretrained.parameters, parameters)
    kernel = parameters["layers/self_0/attention/query/kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")
    assert kernel.addressable_shards[0].data.shape == (2, 8, 2, 4)


def test_another_base(folder):
    """As the inner model alone is saved, without the prefix that it has inside of the task's class."""
    edit_tensors(folder, lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    found = load(folder)
    export(found, folder / "back")
    assert load_file(folder / "back" / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()


def test_tied_heads(pretrained, tmp_path):
    """A tied head may be missing, or be a copy; another tensor is an error, for it would be silently lost."""
    config = dataclasses.replace(CONFIG, tied_embeddings=True)
    parameters = {path: value for path, value in pretrained.parameters.items() if path != "unembedding"}
    export(dataclasses.replace(pretrained, config=config, parameters=parameters), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    embedding = np.asarray(parameters["embedding"])
    edit_tensors(tmp_path, lambda tensors: tensors | {"lm_head.weight": embedding})
    assert_same_parameters(load(tmp_path).parameters, parameters)
    edit_tensors(tmp_path, lambda tensors: tensors | {"lm_head.weight": embedding + 1})
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to false"):
        load(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors | {"lm_head.weight": embedding[1:]})
    with pytest.raises(CheckpointError, match=r"wrong shape: lm_head.weight is \[31, 16\]"):
        load(tmp_path)


def test_buffers_that_say_nothing_are_passed_over(folder):
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32)}
    edit_tensors(folder, lambda tensors: tensors | buffer)
    load(folder)


def test_files_that_go_along(folder, tmp_path):
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "notes.txt").write_text("mine")
    export(load(folder), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"version": "1.0"}'
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_tokens_of_generation(pretrained, folder, tmp_path):
    """Those that config.json names, and those of a tokenizer that the model was trained with here."""
    assert json.loads((folder / "generation_config.json").read_text()) == {"_from_model_config": True}
    edit_config(folder, eos_token_id=[7, 8], pad_token_id=0)
    (folder / "generation_config.json").unlink()
    export(load(folder), tmp_path / "named")
    written = json.loads((tmp_path / "named" / "generation_config.json").read_text())
    assert written == {"_from_model_config": True, "eos_token_id": [7, 8], "pad_token_id": 0}
    export(dataclasses.replace(pretrained, token_ids={"eos_token_id": 5}), tmp_path / "trained")
    for name in ("generation_config.json", "config.json"):
        assert json.loads((tmp_path / "trained" / name).read_text())["eos_token_id"] == 5


def test_a_full_size_folder_that_does_not_fit_is_told_in_less_than_a_second(tmp_path):
    """Of processor time, the least of three: others may have the processors, and their caches, meanwhile.

    The file has no contents, only a length.
    """
    published = PUBLISHED["llava-1.5-7b"]
    family = FAMILIES["llava"].resolve(published.config)
    entries = lay_out(family, read_config(family, published.config), family.spellings[0]).entries
    jax.clear_caches()
    shapes = {name: list(entry.shape) for name, entry in entries.items()}
    shapes["language_model.model.layers.17.mlp.up_proj.weight"][0] += 1
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (tmp_path / "config.json").write_text(json.dumps(published.config))
    taken = []
    for _ in range(3):
        jax.clear_caches()
        start = time.process_time()
        with pytest.raises(CheckpointError, match=r"wrong shape: language_model\.model\.layers\.17") as caught:
            load(tmp_path)
        taken.append(time.process_time() - start)
    assert min(taken) < 1 and len(str(caught.value).splitlines()) == 2


def test_an_import_that_was_changed_here_is_written_as_it_is_now(folder, tmp_path):
    edit_config(folder, eos_token_id=7)
    found = load(folder)
    tail = found.parameters["tail/self_0/mlp/up/kernel"]
    wider = dataclasses.replace(found.config, attention_softcap=20.0)
    changed = found.parameters | {"tail/self_0/mlp/up/kernel": tail + 1}
    export(dataclasses.replace(found, config=wider, parameters=changed), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["attn_logit_softcapping"], config["eos_token_id"]) == (20.0, 7)
    again = load(tmp_path / "out")
    assert again.config == wider
    assert_same_parameters(again.parameters, changed)


def test_export_refuses(pretrained, folder, tmp_path):
    with pytest.raises(InputError, match="is there already, and not empty"):
        export(pretrained, folder)
    with pytest.raises(InputError, match="dtype must be one of"):
        export(pretrained, tmp_path / "out", dtype="int8")
    parameters = dict(pretrained.parameters)
    del parameters["final_norm/scale"]
    parameters |= {"more": jnp.zeros(3), "embedding": jnp.zeros((31, 16))}
    with pytest.raises(CheckpointError) as caught:
        export(dataclasses.replace(pretrained, parameters=parameters), tmp_path / "out")
    assert str(caught.value).splitlines()[1:] == [
        "  missing: final_norm/scale",
        "  extra: more",
        "  wrong shape: embedding is [31, 16], the config says [32, 16]",
    ]
    assert not (tmp_path / "out").exists()


def test_a_table_must_cover_the_model():
    """A parameter that no row names, or two rows name, is a fault of the table and is found before anything is read."""
    family = FAMILIES["vit"]
    config = ViTConfig(8, 4, 12, 2, 3, 16, class_token=True, class_position=True, pool="class", layer_scale=0.1)
    with pytest.raises(CheckpointError, match=r"no place for .*: layers/attention_scale, layers/mlp_scale$"):
        lay_out(family, config, {})
    twice = dataclasses.replace(family, rows=(*family.rows, dataclasses.replace(family.rows[0], outside="again")))
    with pytest.raises(CheckpointError, match=r"again and .*cls_token both stand for class_token"):
        lay_out(twice, dataclasses.replace(config, layer_scale=0.0), {})
