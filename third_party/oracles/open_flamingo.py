"""OpenFlamingo 2.0.1 (https://github.com/mlfoundations/open_flamingo) as the reference.

Its modules are put together here, since its own factory downloads the towers and fixes the sizes of the resampler and
of the gated cross-attention. The checkpoint holds what the model's `state_dict()` holds, each storage under one name:
without `lang_encoder.old_decoder_blocks.*` and `lang_encoder.gated_cross_attn_layers.*`, which are other names for the
parts of the decoder's layers. The vision tower gets no gradient, as in OpenFlamingo.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from third_party.oracles.rows import SPECIAL, pictures, token_rows
from third_party.oracles.variants import GREEDY, Call, Variant

if TYPE_CHECKING:
    import torch

VERSION = "open_flamingo 2.0.1"
INSTALL = (
    "this reference needs open_flamingo 2.0.1 and open_clip_torch: `pip install --no-deps open_flamingo==2.0.1 "
    "open_clip_torch` and `pip install einops einops_exts ftfy regex timm torchvision`"
)
# The language model's class, and where its layers are.
LANGUAGE = {
    "llama": ("LlamaForCausalLM", "model.layers"),
    "gpt_neox": ("GPTNeoXForCausalLM", "gpt_neox.layers"),
    "mpt": ("MptForCausalLM", "transformer.blocks"),
}
ALIASES = ("lang_encoder.old_decoder_blocks.", "lang_encoder.gated_cross_attn_layers.")
MLP_RATIO = 4.0  # of open_clip's towers
IMAGE_FEATURES = 9  # columns of the projection that only CLIP's loss uses


def build(class_name: str, settings: Mapping[str, Any]) -> torch.nn.Module:
    """A Flamingo from `settings`, which become the folder's config.json.

    Raises:
      ImportError: the packages are not installed, or in another version.
    """
    try:
        from open_flamingo.src.flamingo import Flamingo
        from open_flamingo.src.flamingo_lm import FlamingoLMMixin
        from open_flamingo.src.utils import extend_instance
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    if metadata.version("open_flamingo") != "2.0.1":
        raise ImportError(f"{INSTALL} (this is open_flamingo {metadata.version('open_flamingo')})")
    from third_party.oracles import hugging_face

    settings = copy.deepcopy(dict(settings))
    language = dict(settings["lang"])
    model_class, layers = LANGUAGE[language.pop("model_type")]
    lang_encoder = hugging_face.build(model_class, language)
    extend_instance(lang_encoder, FlamingoLMMixin)
    lang_encoder.set_decoder_layers_attr_name(layers)
    model = Flamingo(
        _Towers(settings["vision_cfg"]),
        lang_encoder,
        settings["eoc_token_id"],
        settings["media_token_id"],
        settings["vis_dim"],
        settings["cross_attn_every_n_layers"],
    )
    _resize(model, settings)
    settings["lang"] = json.loads(lang_encoder.config.to_json_string())
    model.settings = settings
    return model


def save(model: torch.nn.Module, folder: Path) -> None:
    """Writes config.json, model.safetensors and generation_config.json."""
    from safetensors.torch import save_file

    names: dict[int, str] = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(ALIASES):
            names.setdefault(tensor.data_ptr(), name)
    state = model.state_dict()
    save_file(
        {name: state[name].contiguous() for name in names.values()}, folder / "model.safetensors", {"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(model.settings, indent=2, sort_keys=True) + "\n")
    model.lang_encoder.generation_config.save_pretrained(folder)


def reopen(class_name: str, folder: Path) -> torch.nn.Module:
    """A Flamingo from a checkpoint.

    Raises:
      ImportError: the packages are not installed, or in another version.
      ValueError: tensors are missing or left over.
    """
    from safetensors.torch import load_file

    model = build(class_name, json.loads((folder / "config.json").read_text()))
    report = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    missing = [name for name in report.missing_keys if not name.startswith((*ALIASES, "lang_encoder.lm_head."))]
    if missing or report.unexpected_keys:
        raise ValueError(f"in {folder} are missing: {missing}, and left over: {report.unexpected_keys}")
    return model.eval()


class _Towers:
    """What OpenFlamingo takes of an open_clip model: its vision tower."""

    def __init__(self, config: Mapping[str, Any]):
        import torch
        from open_clip.transformer import QuickGELU, VisionTransformer

        self.visual = VisionTransformer(
            image_size=config["image_size"],
            patch_size=config["patch_size"],
            width=config["width"],
            layers=config["layers"],
            heads=config["width"] // config["head_width"],
            mlp_ratio=MLP_RATIO,
            output_dim=IMAGE_FEATURES,
            act_layer=QuickGELU if config["quick_gelu"] else torch.nn.GELU,
            output_tokens=True,
            # The patches that OpenFlamingo was trained with have not gone through the last norm. open_clip before 2.24
            # gave them so; after that it does with this option.
            final_ln_after_pool=config.get("final_ln_after_pool", False),
        )


def _resize(model: torch.nn.Module, settings: Mapping[str, Any]) -> None:
    """Gives the resampler and the gated cross-attention the sizes of `settings`; OpenFlamingo's are fixed."""
    import torch
    from open_flamingo.src.helpers import GatedCrossAttentionBlock, PerceiverResampler

    heads = {"heads": settings["heads"], "dim_head": settings["dim_head"]}
    model.perceiver = PerceiverResampler(
        dim=settings["vis_dim"], depth=settings["depth"], num_latents=settings["latents"], **heads
    )
    language = model.lang_encoder
    language.gated_cross_attn_layers = torch.nn.ModuleList(
        layer and GatedCrossAttentionBlock(dim=model.lang_dim, dim_visual=settings["vis_dim"], **heads)
        for layer in language.gated_cross_attn_layers
    )
    language.init_flamingo_layers(False)


def _calls(random: np.random.Generator, settings: Mapping[str, Any]) -> list[Call]:
    """Rows without padding, padded on the right and on the left, and rows to go on from; one of them has no image."""
    media = [settings["media_token_id"]]
    chunk = [settings["eoc_token_id"], *media]
    size = settings["vision_cfg"]["image_size"]

    def call(name, lengths, images, side="right", fn="forward", kw=None):
        rows = token_rows(random, lengths, images, side)
        arrays = {
            "vision_x": pictures(random, len(lengths), max(map(len, images)), 1, 3, size, size),
            "lang_x": rows["input_ids"],
            "attention_mask": rows["attention_mask"],
        }
        return Call(name, arrays, fn, kw or {})

    return [
        call("whole", (13, 13, 13), [(media, chunk), (media, chunk), (chunk, media)]),
        call("right", (17, 9, 12), [(media, chunk), (media,), ()]),
        call("left", (8, 14, 11), [(media,), (media, media, chunk), (media, chunk)], "left"),
        call("generate", (6, 11, 9), [(media,), (media, chunk), ()], "left", "generate", GREEDY),
    ]


def _settings(language: dict[str, Any], vision: dict[str, Any], **more: Any) -> dict[str, Any]:
    special = {"eoc_token_id": 57, "media_token_id": 58}
    return {
        "model_type": "open_flamingo",
        "vision_cfg": vision,
        "vis_dim": vision["width"],
        "lang": language | SPECIAL | {"vocab_size": 59},
        **special,
        **more,
    }


# As the published weights were trained; without it, as open_clip has it now.
_AS_TRAINED = {"final_ln_after_pool": True}
_VARIANTS = (
    _settings(
        {
            "model_type": "llama",
            "hidden_size": 36,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "intermediate_size": 44,
        },
        {
            "layers": 2,
            "width": 30,
            "head_width": 10,
            "image_size": 21,
            "patch_size": 7,
            "quick_gelu": True,
            **_AS_TRAINED,
        },
        cross_attn_every_n_layers=2,
        heads=3,
        dim_head=8,
        depth=2,
        latents=5,
    ),
    _settings(
        {
            "model_type": "gpt_neox",
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 66,
        },
        {"layers": 3, "width": 28, "head_width": 7, "image_size": 20, "patch_size": 4, "quick_gelu": False},
        cross_attn_every_n_layers=1,
        heads=2,
        dim_head=11,
        depth=1,
        latents=3,
    ),
    _settings(
        {"model_type": "mpt", "d_model": 40, "n_layers": 5, "n_heads": 5, "max_seq_len": 64},
        {
            "layers": 1,
            "width": 36,
            "head_width": 12,
            "image_size": 24,
            "patch_size": 8,
            "quick_gelu": True,
            **_AS_TRAINED,
        },
        cross_attn_every_n_layers=2,
        heads=5,
        dim_head=6,
        depth=3,
        latents=4,
    ),
)
FAMILIES = {
    "open_flamingo": tuple(
        Variant("Flamingo", settings, _calls, "whole/logits", package="open_flamingo") for settings in _VARIANTS
    )
}
