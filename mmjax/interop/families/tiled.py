"""Models of transformers whose pictures stand in the text tile by tile: LLaVA-NeXT, Idefics-3, SmolVLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mmjax.interop.families.decoder_settings import tied_together
from mmjax.interop.families.inline import LANGUAGE, image_token, inline_family, llava, text_width
from mmjax.interop.families.vision import IDEFICS3_VISION, SMOLVLM_VISION
from mmjax.interop.family import Family, Part, Row
from mmjax.interop.settings import Setting, Tree, fixed, same, within
from mmjax.models.inline import InlineConfig

_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def _grid_pinpoints() -> Setting:
    """image_grid_pinpoints: the resolutions, as lists of height and width."""

    def read(outside: Tree) -> dict[str, Any]:
        given = outside.get("image_grid_pinpoints") or _PINPOINTS
        return {"tiles": {"resolutions": tuple(tuple(resolution) for resolution in given)}}

    def write(config: InlineConfig) -> dict[str, Any]:
        return {"image_grid_pinpoints": [list(resolution) for resolution in config.tiles.resolutions]}

    return Setting(read, write)


llava_next = dataclasses.replace(
    llava,
    model_type="llava_next",
    architecture="LlavaNextForConditionalGeneration",
    settings=(*llava.settings, _grid_pinpoints()),
    rows=(*llava.rows, Row("{own}image_newline", "newline")),
    spellings=tuple({**spelling, "own": "" if spelling["decoder.head"] else "model."} for spelling in llava.spellings),
)


def _idefics3(model_type: str, architecture: str, vision: Sequence[Family]) -> Family:
    return inline_family(
        model_type,
        architecture,
        Part("vision", "vision_config", tuple(vision)),
        Part("decoder", "text_config", LANGUAGE),
        (
            image_token("image_token_id", 128_257),
            tied_together(False),
            text_width(4096),
            *within("connector", (same("scale_factor", "shuffle", 2), fixed(bias=False))),
        ),
        [Row("{connector}modality_projection.proj.weight", "connector/out/kernel", "D M -> M D")],
        [  # and as it is saved without its head
            {
                "vision.base": f"{model}vision_model.",
                "connector": f"{model}connector.",
                "decoder.base": f"{model}text_model.",
            }
            for model in ("model.", "")
        ],
    )


idefics3 = _idefics3("idefics3", "Idefics3ForConditionalGeneration", IDEFICS3_VISION)
smolvlm = _idefics3("smolvlm", "SmolVLMForConditionalGeneration", SMOLVLM_VISION)

TILED = (llava_next, idefics3, smolvlm)
