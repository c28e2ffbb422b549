"""From a workdir or a checkpoint to a model that can be used: its configuration, tokenizer, and parameters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax.checkpoints.manager import Checkpoints
from mmjax.core.arrays import Array
from mmjax.core.batch import Batch
from mmjax.core.config import build
from mmjax.core.errors import ConfigError, InputError
from mmjax.core.folders import local_path
from mmjax.data.config import DataConfig
from mmjax.models.families import family_of
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.text.tokenizer import Tokenizer, make_tokenizer
from mmjax.training.run import RunConfig
from mmjax.training.state import plan_state


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A trained model with all that is needed to use it; `params` by path, averaged if the run kept an average."""

    config: RunConfig
    model: nn.Module
    tokenizer: Tokenizer
    params: dict[str, Array]
    step: int
    workdir: Path


def find_run(path: str | Path) -> tuple[Path, int | None]:
    """The workdir, and the step if one is named, of a path to a workdir, its checkpoints folder, or one step.

    Raises:
      InputError: there is no run at that path.
    """
    path = local_path(path)
    candidates = [(path, None)]
    if path.name == "checkpoints":
        candidates.append((path.parent, None))
    if path.name.isdigit():
        candidates.append((path.parent.parent, int(path.name)))
    for workdir, step in candidates:
        if (workdir / "config.json").is_file() and (workdir / "checkpoints").is_dir():
            return workdir, step
    raise InputError(f"{path} is not the workdir of a run, nor a checkpoint in one (no config.json and checkpoints/)")


def read_config(workdir: Path) -> RunConfig:
    """The configuration that a run was last started with."""
    path = workdir / "config.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    return build(RunConfig, tree)


def abstract_batch(data: DataConfig, rows: int) -> Batch:
    """Shapes of a global batch of `rows` rows."""
    text = (rows, data.length)
    frames = (data.frames,) if data.frames > 1 else ()
    media = (rows, data.images, *frames)

    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    return Batch(
        tokens=array(text, jnp.int32),
        positions=array(text, jnp.int32),
        segment_ids=array(text, jnp.int32),
        targets=array(text, jnp.int32),
        loss_weights=array(text, jnp.float32),
        media_index=array(text, jnp.int32),
        images=array((*media, data.image_size, data.image_size, 3), jnp.uint8),
        image_mask=array(media, jnp.bool_),
        dataset_ids=array((rows,), jnp.int32),
    )


def build_model(config: RunConfig) -> tuple[nn.Module, Tokenizer]:
    """The module and the tokenizer of a run.

    Raises:
      ConfigError: the tokenizer has more tokens than the model has embeddings, or another image token.
    """
    model, tokenizer = config.model.build(config.dtype), make_tokenizer(config.tokenizer)
    family = family_of(model)
    decoder = family.tokens(model.config)
    rows = decoder.vocab_size + decoder.extra_embeddings
    if tokenizer.vocab_size > rows:
        raise ConfigError(
            f"the decoder's vocab_size is {rows} but the tokenizer has {tokenizer.vocab_size} tokens (those that its "
            "file lacks are appended): raise it, or name the token that stands for each in config.tokenizer.special"
        )
    expected = family.image_token(model.config)
    if expected not in (None, tokenizer.special["image"]):
        raise ConfigError(
            f"config.model.config.image_token is {expected} but the tokenizer writes pictures as token "
            f"{tokenizer.special['image']}: set image_token to it, or name the token in config.tokenizer.special.image"
        )
    return model, tokenizer


def usable_mesh(config: RunConfig) -> Mesh:
    """The mesh that the run was trained on; where there are not the devices for it, one that splits the parameters."""
    try:
        return make_mesh(config.mesh)
    except ConfigError:
        return make_mesh(MeshConfig(data=1, fsdp=-1))


def check_can_write(config: RunConfig, what: str, *, families: Sequence[str] = ("flamingo",)) -> None:
    """Runs of other families than these give no text, or are not scored, so far.

    Raises:
      InputError: a run of another family; `what` is what was asked of it.
    """
    if config.model.family not in families:
        raise InputError(
            f"{what} takes runs of the family {' or '.join(families)}, and this one is of {config.model.family}: mmjax "
            "export gives it to transformers"
        )


def load_run(path: str | Path, mesh: Mesh) -> LoadedRun:
    """Reads the newest good step (or the one that `path` names) straight into its shards on `mesh`.

    Raises:
      InputError: no run at `path`.  CheckpointError: no good checkpoint, or it does not fit its configuration.
    """
    workdir, step = find_run(path)
    config = read_config(workdir)
    model, tokenizer = build_model(config)
    plan = plan_state(config, model, abstract_batch(config.data, config.batch_size), mesh)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(step, like=plan.abstract.tree(), parts=("params", "frozen", "ema"))
    params = {**restored.state["frozen"], **restored.state["params"], **restored.state["ema"]}
    return LoadedRun(config, model, tokenizer, params, restored.step, workdir)
