"""A trained part, its language model and its CLIP, made one checkpoint again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.core.errors import CheckpointError, InputError
from mmjax.interop.assembled import assemble
from mmjax.interop.configs import read_config
from mmjax.interop.engine import Pretrained, export, inspect, load
from mmjax.interop.families import FAMILIES
from mmjax.interop.layout import lay_out

VISION = {"layers": 2, "width": 12, "head_width": 6, "image_size": 8, "patch_size": 4, "final_ln_after_pool": True}
LANGUAGE = {
    "llama": {
        "model_type": "llama",
        "vocab_size": 23,
        "hidden_size": 16,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 20,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "vocab_size": 23,
        "hidden_size": 16,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "intermediate_size": 20,
        "rotary_pct": 0.5,
    },
    "mpt": {"model_type": "mpt", "vocab_size": 23, "d_model": 16, "n_layers": 5, "n_heads": 4},
}
OUTER = {
    "model_type": "open_flamingo",
    "cross_attn_every_n_layers": 2,
    "heads": 2,
    "dim_head": 5,
    "depth": 2,
    "latents": 3,
    "media_token_id": 21,
    "eoc_token_id": 22,
}


CLIP = {
    "projection_dim": 7,
    "vision_config": {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": 8,
        "patch_size": 4,
    },
    "text_config": {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 9,
    },
}


def random_pretrained(family, outside, detected=None):
    """A random model of a family, from the config.json that describes it."""
    family = family.resolve(outside)
    config = read_config(family, outside, detected)
    shapes = lay_out(family, config, family.spellings[0]).shapes
    random = np.random.default_rng(0)
    parameters = {path: jnp.asarray(random.normal(size=s.shape), jnp.float32) for path, s in shapes.items()}
    return Pretrained(family, config, parameters)


def write(folder, tensors, config):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=sorted(LANGUAGE))
def whole(request, tmp_path_factory):
    """A whole checkpoint, and the same in three folders: the trained part, the language model, the CLIP."""
    root = tmp_path_factory.mktemp(request.param)
    language = LANGUAGE[request.param]
    outside = {**OUTER, "vision_cfg": VISION, "lang": language}
    flamingo = random_pretrained(FAMILIES["open_flamingo"], outside)
    export(flamingo, root / "whole")
    tensors = load_file(root / "whole" / "model.safetensors")

    trained = {name: t for name, t in tensors.items() if name.startswith("perceiver.") or ".gated_cross_attn_" in name}
    token = next(name for name in tensors if name.endswith(("embed_tokens.weight", "embed_in.weight", "wte.weight")))
    trained[token] = tensors[token]
    write(root / "trained", trained, {**OUTER, "vision_cfg": {"final_ln_after_pool": True}})

    start = "lang_encoder."
    names = {name: name.removeprefix(start).replace(".decoder_layer", "") for name in tensors if name.startswith(start)}
    if request.param == "gpt_neox":
        names["lang_encoder.lm_head.weight"] = "embed_out.weight"
    write(
        root / "language",
        {names[n]: t for n, t in tensors.items() if n == token or (n in names and n not in trained)},
        language,
    )

    vision = {path.removeprefix("vision/"): p for path, p in flamingo.parameters.items() if path.startswith("vision/")}
    config = inspect(root / "whole").config.vision
    export(Pretrained(FAMILIES["clip_vision_model"], config, vision), root / "clip")
    return root, tensors


def test_parts_make_the_whole_again(whole):
    """Bit for bit, from the names of transformers for the tower and the language model."""
    root, tensors = whole
    assemble(root / "trained", {"decoder": root / "language", "vision": root / "clip"}, root / "again")
    again = load_file(root / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)
    assert load(root / "again").config == load(root / "whole").config
    with pytest.raises(InputError, match="is there already, and not empty"):
        assemble(root / "trained", {}, root / "again")


def test_blocks_may_stand_in_a_list_apart(whole, tmp_path):
    """As another name for the same storage they are passed over; alone, they are what is read."""
    root, tensors = whole
    config = json.loads((root / "whole" / "config.json").read_text())
    layers = next(name for name in tensors if ".gated_cross_attn_layer." in name).split(".gated_cross_attn_layer.")[0]
    start = layers.rpartition(".")[0] + "."

    def apart(name):
        number, _, rest = name.removeprefix(start).partition(".gated_cross_attn_layer.")
        return f"lang_encoder.gated_cross_attn_layers.{number}.{rest}"

    renamed = {apart(n) if ".gated_cross_attn_layer." in n else n: t for n, t in tensors.items()}
    alone = load(write(tmp_path / "apart", renamed, config))
    both = load(write(tmp_path / "both", renamed | tensors, config))
    expected = load(root / "whole")
    for found in (alone, both):
        assert all(np.array_equal(found.parameters[path], p) for path, p in expected.parameters.items())


def test_what_does_not_fit_is_listed(whole, tmp_path):
    """Missing parts, other widths, further layers, names that nothing knows."""
    root, _ = whole
    with pytest.raises(CheckpointError, match=r"missing: vision_encoder\.conv1\.weight \[12, 3, 4, 4\]"):
        outer = json.loads((root / "whole" / "config.json").read_text())
        kept = load_file(root / "trained" / "model.safetensors")
        trained = write(tmp_path / "trained", kept, outer)
        assemble(trained, {"decoder": root / "language"}, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(CheckpointError, match=r"left over: vision_model\.encoder\.layers\.1\.\S* of a part"):
        short = {**outer, "vision_cfg": {**outer["vision_cfg"], "layers": 1}}
        trained = write(tmp_path / "short", {**kept, "odd": kept["perceiver.latents"]}, short)
        assemble(trained, {"decoder": root / "language", "vision": root / "clip"}, tmp_path / "none")
    with pytest.raises(CheckpointError, match="left over: odd"):
        assemble(trained, {"decoder": root / "language", "vision": root / "clip"}, tmp_path / "none")
    with pytest.raises(InputError, match="no part 'text'; it has vision, decoder"):
        assemble(trained, {"text": root / "language"}, tmp_path / "none")
    with pytest.raises(InputError, match="has no such decoder"):
        assemble(trained, {"decoder": root / "clip"}, tmp_path / "none")


def test_files_of_the_parts(whole, tmp_path):
    """Words as the language model has them, pictures as its tower has; what was published with the rest holds over."""
    root, _ = whole
    trained = write(tmp_path / "trained", load_file(root / "trained" / "model.safetensors"), OUTER)
    for name, folder in (("language", root / "language"), ("clip", root / "clip")):
        (folder / "tokenizer.json").write_text(json.dumps({"of": name}))
    (root / "clip" / "processor_config.json").write_text(json.dumps({"image_processor": {"of": "clip"}}))
    (trained / "generation_config.json").write_text('{"eos_token_id": 22}')
    config = {**OUTER, "vision_cfg": {"final_ln_after_pool": True}}
    (trained / "config.json").write_text(json.dumps(config))
    assemble(trained, {"decoder": root / "language", "vision": root / "clip"}, tmp_path / "made")
    said = {path.name: json.loads(path.read_text()) for path in (tmp_path / "made").glob("*.json")}
    assert said["tokenizer.json"] == {"of": "language"} and said["preprocessor_config.json"] == {"of": "clip"}
    assert said["generation_config.json"] == {"eos_token_id": 22} and "processor_config.json" not in said


def test_weights_as_they_are_published(whole, tmp_path, torch):
    """The script of the guide turns a checkpoint.pt into a folder that is taken in."""
    root, tensors = whole
    trained = load_file(root / "trained" / "model.safetensors")
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(
        {"model_state_dict": {f"module.{name}": torch.tensor(t) for name, t in trained.items()}},
        folder / "checkpoint.pt",
    )
    (folder / "config.json").write_text(json.dumps(OUTER))
    with pytest.raises(InputError, match=r"torch\.load\('checkpoint\.pt', weights_only=True\).*docs/weights\.md"):
        load(folder)
    guide = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    [script] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    exec(script.replace("OpenFlamingo-9B-vitl-mpt7b", str(folder)), {})
    made = load_file(folder / "model.safetensors")
    assert made.keys() == trained.keys() and all(np.array_equal(made[name], trained[name]) for name in made)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "open_flamingo" and config.keys() == {*OUTER, "vision_cfg"}
    (folder / "config.json").write_text(json.dumps({**config, **OUTER}))
    assemble(folder, {"decoder": root / "language", "vision": root / "clip"}, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()


def test_a_tower_within_a_pair(tmp_path):
    """The picture tower of a whole CLIP serves; its text tower and its projections are not needed."""
    pair = random_pretrained(FAMILIES["clip"], CLIP)
    export(pair, tmp_path / "clip")
    outside = {**OUTER, "vision_cfg": VISION, "lang": LANGUAGE["mpt"]}
    export(random_pretrained(FAMILIES["open_flamingo"], outside), tmp_path / "whole")
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    trained = {name: tensor for name, tensor in tensors.items() if not name.startswith("vision_encoder.")}
    write(tmp_path / "trained", trained, {**OUTER, "lang": LANGUAGE["mpt"]})
    assemble(tmp_path / "trained", {"vision": tmp_path / "clip"}, tmp_path / "again")
    found = load(tmp_path / "again")
    assert found.config.vision.activation == "gelu_quick" and found.config.vision.feature_layer == -1
    towers = {path: p for path, p in pair.parameters.items() if path.startswith("vision/") and "projection" not in path}
    assert towers.keys() == {path for path in found.parameters if path.startswith("vision/")}
    jax.tree.map(np.testing.assert_array_equal, towers, {path: found.parameters[path] for path in towers})
