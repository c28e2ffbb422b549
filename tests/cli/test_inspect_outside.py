"""`mmjax inspect` of folders in the layout of transformers."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 11,
    "hidden_size": 6,
    "intermediate_size": 5,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "tie_word_embeddings": False,
}
LAYER = {
    "input_layernorm.weight": (6,),
    "post_attention_layernorm.weight": (6,),
    "self_attn.q_proj.weight": (6, 6),
    "self_attn.k_proj.weight": (2, 6),
    "self_attn.v_proj.weight": (2, 6),
    "self_attn.o_proj.weight": (6, 6),
    "mlp.gate_proj.weight": (5, 6),
    "mlp.up_proj.weight": (5, 6),
    "mlp.down_proj.weight": (6, 5),
}


@pytest.fixture
def folder(tmp_path):
    shapes = {"model.embed_tokens.weight": (11, 6), "model.norm.weight": (6,), "lm_head.weight": (11, 6)}
    shapes |= {f"model.layers.{layer}.{name}": shape for layer in range(2) for name, shape in LAYER.items()}
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_an_outside_folder_tells_its_family_sizes_and_places(mmjax, folder):
    code, out, err = mmjax("inspect", folder, "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert (record["family"], record["architecture"]) == ("llama", "LlamaForCausalLM")
    assert record["model"]["kv_heads"] == 1 and record["model"]["width"] == 6
    parts = {name: part["count"] for name, part in record["parts"].items()}
    assert parts == {
        "embedding": 66,
        "unembedding": 66,
        "norms": 5 * 6,
        "attention": 2 * (36 + 12 + 12 + 36),
        "feed_forward": 2 * 3 * 30,
    }
    assert record["parameters"] == sum(parts.values())
    assert all(part["bytes"] == 2 * part["count"] for part in record["parts"].values())
    by_name = {tensor["name"]: tensor for tensor in record["tensors"]}
    assert len(by_name) == 3 + 2 * len(LAYER)
    assert by_name["model.layers.1.self_attn.k_proj.weight"] == {
        "name": "model.layers.1.self_attn.k_proj.weight",
        "shape": [2, 6],
        "dtype": "float16",
        "tied": False,
        "inside": [{"path": "layers/self_0/attention/key/kernel", "index": 1, "shape": [6, 1, 2]}],
    }
    code, out, _ = mmjax("inspect", folder)
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "2 x model.layers.*.mlp.up_proj.weight float16 [5, 6] -> layers/self_*/mlp/up/kernel" in lines
    assert "tensors: 21" in lines


def test_a_broken_outside_folder_is_one_clear_error(mmjax, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    code, out, err = mmjax("inspect", folder)
    assert code == 1 and out == ""
    assert err.startswith("error: ") and "model.safetensors" in err and err.count("\n") == 1
    weights.rename(folder / "pytorch_model.bin")
    code, _, err = mmjax("inspect", folder)
    assert code == 2 and "safetensors" in err


def test_an_unknown_family_names_the_known_ones(mmjax, folder):
    (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": "lama"}))
    code, _, err = mmjax("inspect", folder)
    assert code == 2 and "'lama', which is not known; known are: " in err and "llama" in err
