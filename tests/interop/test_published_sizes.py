"""Published models at full size, by shapes alone: as many parameters as published, tensors by their released names."""

from __future__ import annotations

import math
import re

import pytest

from mmjax.interop.configs import read_config
from mmjax.interop.families import FAMILIES
from mmjax.interop.layout import choose_spelling, lay_out
from tests.interop.published_sizes import PUBLISHED

FIRST_OF_FAMILY = {published.config["model_type"]: name for name, published in reversed(PUBLISHED.items())}


def resolved(name):
    published = PUBLISHED[name]
    family = FAMILIES[published.config["model_type"]].resolve(published.config)
    return family, read_config(family, published.config, published.detected)


def counted(layout, starts):
    """Parameters in the tensors whose names begin so."""
    pattern = re.compile("|".join(re.escape(start).replace(r"\{\}", r"\d+") for start in starts))
    entries = [entry for entry in layout.entries.values() if not entry.tied and pattern.match(entry.name)]
    return sum(math.prod(entry.shape) for entry in entries)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_names(name):
    published = PUBLISHED[name]
    family, config = resolved(name)
    layout = lay_out(family, config, choose_spelling(family, published.names))
    found = counted(layout, published.counted)
    if published.digits is None:
        assert found == published.parameters
    else:
        assert float(f"{found:.{published.digits - 1}e}") == published.parameters
    if not published.counted:
        assert found == sum(math.prod(shape.shape) for shape in layout.shapes.values())
    assert not set(published.names) - set(layout.entries)


@pytest.mark.parametrize("name", FIRST_OF_FAMILY.values(), ids=str)
def test_every_spelling_is_told_by_its_names(name):
    family, config = resolved(name)
    seen = []
    for spelling in family.spellings:
        names = set(lay_out(family, config, spelling).entries)
        assert names not in seen
        assert choose_spelling(family, names) == spelling
        seen.append(names)


@pytest.mark.parametrize(
    "names",
    [
        ("language_model.model.layers.0.self_attn.q_proj.weight", "language_model.lm_head.weight",
         "vision_tower.vision_model.pre_layrnorm.weight", "multi_modal_projector.linear_1.weight"),
        ("language_model.model.layers.0.self_attn.q_proj.weight", "language_model.lm_head.weight",
         "vision_tower.pre_layrnorm.weight", "multi_modal_projector.linear_1.weight"),
        ("model.language_model.layers.0.self_attn.q_proj.weight", "lm_head.weight",
         "model.vision_tower.vision_model.pre_layrnorm.weight", "model.multi_modal_projector.linear_1.weight"),
        ("model.language_model.layers.0.self_attn.q_proj.weight", "lm_head.weight",
         "model.vision_tower.pre_layrnorm.weight", "model.multi_modal_projector.linear_1.weight"),
    ],
    ids=("released", "transformers 5", "modules", "modules of transformers 5"),
)  # fmt: skip
def test_llava_by_older_and_newer_names(names):
    family, config = resolved("llava-1.5-7b")
    assert set(names) <= set(lay_out(family, config, choose_spelling(family, names)).entries)
