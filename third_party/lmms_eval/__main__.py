"""lmms-eval with our models: `python -m third_party.lmms_eval --model mmjax --model_args pretrained=DIR --tasks ...`.

All options are those of lmms-eval.
"""

from __future__ import annotations

from lmms_eval.__main__ import cli_evaluate
from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.models.registry_v2 import ModelManifest


def register() -> None:
    """Makes `mmjax` known to lmms-eval in this process."""
    MODEL_REGISTRY_V2.register_manifest(
        ModelManifest("mmjax", simple_class_path="third_party.lmms_eval.model.MMJax"), overwrite=True
    )


if __name__ == "__main__":
    register()
    cli_evaluate()
