"""Outside checkpoints in and out by the command line: bit for bit, with errors of one line."""

from __future__ import annotations

import json
import shutil
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.checkpoints import folder as step_folders
from mmjax.core.errors import CheckpointError, InputError
from mmjax.interop.engine import Pretrained, export, load
from mmjax.interop.families import FAMILIES
from mmjax.models.decoders.config import DecoderConfig
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parallel.sharding import nested
from mmjax.text.tokenizer import TokenizerConfig
from mmjax.training import pretrained as imports
from mmjax.training.load import LoadedRun
from tests.cli.program import run_program
from tests.models.plain_numpy import random_parameters

CONFIG = DecoderConfig(32, 16, 5, 4, 4, 24, kv_heads=2, tied_embeddings=False, mlp_gated=True)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A random Llama in bfloat16, with a tokenizer's file, in shards."""
    folder = tmp_path_factory.mktemp("outside") / "llama"
    family, tokens = FAMILIES["llama"], jnp.zeros((1, 1), jnp.int32)
    parameters = random_parameters(family.model(CONFIG, jnp.float32), 1, tokens, tokens, tokens)
    export(Pretrained(family, CONFIG, parameters), folder, dtype="bfloat16", max_shard_bytes=3000)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "qformer_tokenizer").mkdir()
    (folder / "qformer_tokenizer" / "tokenizer.json").write_text("[]")
    return folder


def tensors_of(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_there_and_back(outside, tmp_path):
    code, said, error = run_program("import", str(outside), str(tmp_path / "in"))
    assert code == 0, error
    count = sum(tensor.size for tensor in tensors_of(outside).values())
    assert "family: llama" in said and f"parameters: {count:,} (" in said
    code, said, error = run_program("inspect", str(tmp_path / "in"), "--json")
    assert code == 0, error
    record = json.loads(said)
    assert (record["parameters"], record["family"], record["model"]["width"]) == (count, "llama", 16)
    assert imports.exportable(record["path"]).family.model_type == "llama"
    code, said, error = run_program("export", str(tmp_path / "in"), str(tmp_path / "out"), "--max-shard-gb", "4e-6")
    assert code == 0, error
    before, after = tensors_of(outside), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "out" / "qformer_tokenizer" / "tokenizer.json").read_text() == "[]"
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    configs = [json.loads((folder / "config.json").read_text()) for folder in (outside, tmp_path / "out")]
    assert configs[0] == configs[1]

    code, _, error = run_program("import", str(outside), str(tmp_path / "in"))
    assert code == 2 and "is there already, and not empty" in error and len(error.strip().splitlines()) == 1
    code, _, error = run_program("export", str(tmp_path / "in"), str(tmp_path / "out"))
    assert code == 2 and "is there already, and not empty" in error
    code, _, error = run_program("export", str(tmp_path / "in"), str(tmp_path / "in"), "--format", "stablehlo")
    assert code == 2 and imports.is_imported(tmp_path / "in")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_imported_parameters_are_those_of_the_folder(outside, tmp_path, dtype):
    imports.import_checkpoint(outside, tmp_path, dtype=dtype)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    direct = load(outside, dtype=jnp.dtype(dtype))
    assert imports.is_imported(tmp_path) and not imports.is_imported(outside)
    for found in (imports.load_imported(tmp_path), imports.load_imported(tmp_path, mesh)):
        assert found.config == direct.config
        assert list(found.parameters) == list(direct.parameters) or set(found.parameters) == set(direct.parameters)
        for path, leaf in direct.parameters.items():
            assert found.parameters[path].dtype == leaf.dtype
            assert np.array_equal(found.parameters[path], leaf), path
    assert any(not leaf.sharding.is_fully_replicated for leaf in found.parameters.values())
    assert all(
        np.array_equal(imports.load_parameters(place, mesh)[path].astype(jnp.float32), leaf.astype(jnp.float32))
        for place in (tmp_path, outside)
        for path, leaf in direct.parameters.items()
    )


def test_a_flipped_bit_is_noticed(outside, tmp_path):
    imports.import_checkpoint(outside, tmp_path)
    data = max((tmp_path / "checkpoints").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    raw = bytearray(data.read_bytes())
    raw[len(raw) // 2] ^= 4
    data.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"damaged|cannot be read|changed"):
        imports.load_imported(tmp_path)


def test_an_import_that_was_cut_short_leaves_no_checkpoint(outside, tmp_path, monkeypatch):
    real = imports.engine.read_pieces

    def cut(plan):
        for number, piece in enumerate(real(plan)):
            if number == 7:
                raise CheckpointError("the machine died")
            yield piece

    monkeypatch.setattr(imports.engine, "read_pieces", cut)
    with pytest.raises(CheckpointError, match="died"):
        imports.import_checkpoint(outside, tmp_path)
    assert not imports.is_imported(tmp_path)
    assert step_folders.list_complete_steps(imports.epath.Path(tmp_path / "checkpoints")) == []
    monkeypatch.setattr(imports.engine, "read_pieces", real)
    imports.import_checkpoint(outside, tmp_path)
    assert imports.is_imported(tmp_path)


def test_a_model_that_no_family_can_express_is_told_why(outside, tmp_path):
    found = imports.import_checkpoint(outside, tmp_path)
    odd = imports.dataclasses.replace(found.config, activation="squared_relu", embedding_scale=True)
    with pytest.raises(InputError, match="no outside family") as told:
        imports._as_family(odd, found.parameters, None)
    assert "llama: " in str(told.value) and "embedding_scale=True (would become False)" in str(told.value)
    with pytest.raises(InputError, match="'lama' is not known"):
        imports._as_family(odd, found.parameters, "lama")
    as_qwen = imports.dataclasses.replace(found.config, qkv_bias=True)
    assert imports._as_family(as_qwen, {}, "qwen2").family.model_type == "qwen2"


def test_hub_names_without_a_network(tmp_path):
    code, _, error = run_program("import", "nobody/nothing", str(tmp_path / "x"), HF_HUB_OFFLINE="1")
    assert code == 2 and "nobody/nothing is not a folder here" in error and len(error.strip().splitlines()) == 1
    code, _, error = run_program("import", str(tmp_path / "absent"), str(tmp_path / "x"))
    assert code == 2 and "is not a folder" in error


def test_hub_names(mmjax, outside, tmp_path, monkeypatch):
    """Every verb that takes a folder takes the name of a model on a hub."""
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(outside))
    code, said, error = mmjax("inspect", "someone/llama", "--json")
    assert code == 0 and json.loads(said)["family"] == "llama", error
    code, _, error = mmjax("export", "someone/llama", tmp_path / "out")
    assert code == 0 and (tmp_path / "out" / "tokenizer.json").read_text() == "{}", error
    code, _, error = mmjax("parity", "someone/llama")
    assert code == 2 and "oracle.json is missing" in error
    assert asked == ["someone/llama"] * 3


@pytest.fixture
def run_from(monkeypatch, tmp_path):
    """Makes runs that have trained a model further: (name, the model, what the run began with, its tokenizer)."""
    configs, runs = {}, {}

    def find(path):
        if path not in configs:
            raise InputError("there is no run")
        return path, None

    monkeypatch.setattr(imports, "find_run", find)
    monkeypatch.setattr(imports, "read_config", configs.__getitem__)
    monkeypatch.setattr(imports, "usable_mesh", lambda config: None)
    monkeypatch.setattr(imports, "load_run", lambda path, mesh: runs[path])

    def make(name, found, begun, tokenizer):
        workdir = tmp_path / name
        configs[workdir] = types.SimpleNamespace(init_from=str(begun), tokenizer=tokenizer)
        model, words = (
            types.SimpleNamespace(config=found.config),
            types.SimpleNamespace(special={"pad": 9, "bos": 10, "eos": 11}),
        )
        parameters = {path: np.asarray(leaf, np.float32) + 1 for path, leaf in found.parameters.items()}
        runs[workdir] = LoadedRun(configs[workdir], model, words, parameters, 3, workdir)
        return workdir, parameters

    return make


def test_a_model_trained_from_an_import_keeps_its_files(outside, tmp_path, run_from):
    folder = tmp_path / "llama"
    shutil.copytree(outside, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 7, "max_position_embeddings": 99}))
    (folder / "generation_config.json").write_text('{"eos_token_id": 7, "top_p": 0.5}')
    (folder / "preprocessor_config.json").write_text("[1]")
    found = imports.import_checkpoint(folder, tmp_path / "in")
    same = TokenizerConfig("tokenizer_json", str(folder / "tokenizer.json"))
    first, _ = run_from("first", found, tmp_path / "in", same)
    second, parameters = run_from("second", found, first, same)
    export(imports.exportable(second), tmp_path / "out")
    for name in ("tokenizer.json", "generation_config.json", "preprocessor_config.json"):
        assert (tmp_path / "out" / name).read_text() == (folder / name).read_text()
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["eos_token_id"], written["max_position_embeddings"], written["dtype"]) == (7, 99, "float32")
    again = load(tmp_path / "out")
    assert again.config == found.config
    assert all(np.array_equal(again.parameters[path], leaf) for path, leaf in parameters.items())

    other, _ = run_from("other", found, first, TokenizerConfig())
    export(imports.exportable(other), tmp_path / "words")
    names = {path.name for path in (tmp_path / "words").iterdir()}
    assert "preprocessor_config.json" in names and "tokenizer.json" not in names
    written = json.loads((tmp_path / "words" / "generation_config.json").read_text())
    assert written == {"_from_model_config": True, "bos_token_id": 10, "eos_token_id": 11, "pad_token_id": 9}

    alone, _ = run_from("alone", found, tmp_path / "gone", same)
    assert imports.exportable(alone).origin is None


def test_a_padded_vocabulary(mmjax, outside, tmp_path, run_from):
    """It splits evenly here, no added word is ever the likeliest, and what is given back has the words that it had."""
    code, _, error = mmjax("import", outside, tmp_path / "in", "--pad-vocab-to", 24)
    assert code == 0, error
    found, alike = imports.load_imported(tmp_path / "in"), load(outside)
    assert found.config.vocab_size == 48 and found.parameters["unembedding"].shape == (48, 16)
    tokens = jnp.arange(9, dtype=jnp.int32)[None]
    ones = jnp.ones_like(tokens)
    logits, expected = (
        one.model().apply(nested(one.parameters), tokens, tokens, ones).logits() for one in (found, alike)
    )
    np.testing.assert_allclose(logits[..., :32], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits[..., 32:], expected.mean(-1, keepdims=True).repeat(16, -1), rtol=1e-3, atol=1e-3)
    assert int(logits.argmax(-1).max()) < 32
    export(imports.exportable(tmp_path / "in"), tmp_path / "out")
    before, after = tensors_of(outside), tensors_of(tmp_path / "out")
    assert all(before[name].tobytes() == after[name].tobytes() for name in before) and before.keys() == after.keys()
    workdir, parameters = run_from("run", found, tmp_path / "in", TokenizerConfig())
    export(imports.exportable(workdir), tmp_path / "trained")
    again = load(tmp_path / "trained")
    assert again.config.vocab_size == 32
    assert np.array_equal(again.parameters["embedding"], parameters["embedding"][:32])
    with pytest.raises(InputError, match="multiple of at least 1, not 0"):
        imports.import_checkpoint(outside, tmp_path / "none", pad_vocab_to=0)


def test_mixed_types_come_back_as_they_were(outside, tmp_path):
    tensors = {
        name: tensor.astype(np.float32) if "norm" in name else tensor for name, tensor in tensors_of(outside).items()
    }
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "config.json").write_text((outside / "config.json").read_text())
    save_file(tensors, folder / "model.safetensors")
    export(imports.import_checkpoint(folder, tmp_path / "in"), tmp_path / "out")
    after = tensors_of(tmp_path / "out")
    assert {tensor.dtype for tensor in after.values()} == {np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)}
    assert all(
        after[name].tobytes() == tensor.tobytes() and after[name].dtype == tensor.dtype
        for name, tensor in tensors.items()
    )


def test_a_run_starts_from_an_import_of_another_type(outside, tmp_path):
    imports.import_checkpoint(outside, tmp_path, dtype="bfloat16")
    mesh, direct = make_mesh(MeshConfig(fsdp=8, data=1)), load(outside)
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in direct.parameters.items()}
    shapes["new/kernel"] = jax.ShapeDtypeStruct((2,), jnp.float32)
    one = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    run = types.SimpleNamespace(init_from=str(tmp_path), init_missing="new/.*")
    found = imports.initial_params(run, shapes, dict.fromkeys(shapes, one), mesh)
    assert found.keys() == direct.parameters.keys()
    assert all(
        found[path].dtype == jnp.float32 and np.array_equal(found[path], direct.parameters[path]) for path in found
    )
    with pytest.raises(InputError, match=r"does not give: new/kernel \(absent\)"):
        imports.initial_params(types.SimpleNamespace(init_from=str(tmp_path), init_missing=""), shapes, {}, mesh)
