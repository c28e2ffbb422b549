"""Two towers whose tensors are not all there: every name is listed."""

from __future__ import annotations

import json

import pytest
from safetensors.numpy import load_file, save_file

from mmjax.core.errors import CheckpointError
from mmjax.interop.engine import export, inspect
from mmjax.interop.families import FAMILIES
from tests.interop.test_assembled import CLIP, random_pretrained


def test_projections_that_are_missing_are_listed(tmp_path):
    export(random_pretrained(FAMILIES["clip"], CLIP), tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    tensors = load_file(path)
    kept = {name: tensor for name, tensor in tensors.items() if name not in ("text_projection.weight", "logit_scale")}
    save_file(kept, path)
    with pytest.raises(CheckpointError) as caught:
        inspect(tmp_path / "clip")
    assert str(caught.value).splitlines()[1:] == [
        "  missing: logit_scale []",
        "  missing: text_projection.weight [7, 8]",
    ]
    save_file(tensors | {"visual_projection.weight": tensors["visual_projection.weight"][:5]}, path)
    with pytest.raises(CheckpointError, match=r"wrong shape: visual_projection.weight is \[5, 12\], .* \[7, 12\]$"):
        inspect(tmp_path / "clip")


def test_a_classifier_on_one_of_the_towers(tmp_path):
    """As CLIPForImageClassification is saved, whose config.json is that of the pair."""
    export(random_pretrained(FAMILIES["clip"], CLIP), tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name.startswith("vision_model.")}
    save_file(tensors | {"classifier.weight": tensors["vision_model.post_layernorm.weight"][None]}, path)
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    config["architectures"] = ["CLIPForImageClassification"]
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="extra: classifier") as caught:
        inspect(tmp_path / "clip")
    assert "missing: text_model.embeddings.token_embedding.weight [9, 8]" in str(caught.value)
