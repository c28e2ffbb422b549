"""Outside checkpoints in and out of checkpoints of ours: `mmjax import` and `mmjax export`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, SingleDeviceSharding

from mmjax.checkpoints import folder as step_folders
from mmjax.checkpoints import manifest
from mmjax.checkpoints.manager import Checkpoints
from mmjax.checkpoints.streamed import StoredLeaves, write_streamed
from mmjax.core.arrays import Array
from mmjax.core.config import build, to_tree
from mmjax.core.errors import CheckpointError, ConfigError, InputError, MmjaxError
from mmjax.core.folders import check_new, local_path, new_folder
from mmjax.core.paths import first_match
from mmjax.interop import engine
from mmjax.interop.configs import write_config
from mmjax.interop.engine import Origin, Pretrained
from mmjax.interop.families import FAMILIES
from mmjax.interop.family import Family
from mmjax.interop.layout import lay_out, vocabulary_of, with_vocabulary
from mmjax.parallel.sharding import abstract_parameters, parameter_shardings
from mmjax.text.tokenizer import TokenizerConfig
from mmjax.training.load import LoadedRun, find_run, load_run, read_config, usable_mesh
from mmjax.training.run import RunConfig

_STEP = 0
_PREFIX = "params/"
# What writing a model in the layout of a family raises that is not made for it; the last two where it has other parts.
_CANNOT_EXPRESS = (InputError, ConfigError, CheckpointError, AttributeError, TypeError)
IMPORT_DTYPES = ("float32", "bfloat16", "float16")


def import_checkpoint(
    folder: str | Path, out: str | Path, *, dtype: str = "float32", pad_vocab_to: int | None = None
) -> Pretrained:
    """Writes the checkpoint of an outside folder as one of ours below `out`, tensor by tensor.

    The host holds one tensor at a time, whatever the model's size; no device is used. Tokenizer and processor files go
    along. What is returned has its parameters on disk.

    pad_vocab_to: round the vocabulary up to a multiple of this, with rows that export leaves out again.

    Raises:
      InputError: not such a folder, an unknown family, or `out` is not empty.
      CheckpointError: tensors that do not fit the config (all are listed), or writing failed.
    """
    if dtype not in IMPORT_DTYPES:
        raise InputError(f"dtype must be one of {', '.join(IMPORT_DTYPES)}, not {dtype!r}")
    check_new(out)
    plan = engine.inspect(folder)
    if pad_vocab_to is not None:
        plan = engine.pad_vocabulary(plan, pad_vocab_to)
    number = np.dtype(getattr(jnp, dtype))
    leaves = {f"{_PREFIX}{path}": jax.ShapeDtypeStruct(leaf.shape, number) for path, leaf in plan.layout.shapes.items()}
    pieces = ((f"{_PREFIX}{piece.path}", piece.index, part) for piece, part in engine.read_pieces(plan))
    described = {
        "model_type": plan.family.model_type,
        "outside": dict(plan.origin.config),
        "spelling": dict(plan.origin.spelling),
        "dtypes": {name: dtype.name for name, dtype in plan.origin.dtypes.items()},
        "config": to_tree(plan.config),
        "vocabulary": plan.origin.vocabulary,
    }
    with new_folder(out) as made:
        engine.copy_side_files(plan.origin.folder, made)
        write_streamed(epath.Path(made) / "checkpoints", _STEP, leaves, pieces, {"imported": described})
    return open_imported(out)


def is_imported(path: str | Path) -> bool:
    """Whether `import_checkpoint` wrote this folder.

    Raises:
      CheckpointError: its manifest is damaged.
    """
    step = _step_of(path)
    return (step / manifest.FILE_NAME).exists() and "imported" in manifest.read_manifest(step).config


def open_imported(path: str | Path) -> Pretrained:
    """A checkpoint that `import_checkpoint` wrote; its parameters stay on disk until they are read.

    Raises:
      CheckpointError: it is damaged, or not there.
    """
    step = _step_of(path)
    said = manifest.read_manifest(step).config["imported"]
    family = FAMILIES[said["model_type"]].resolve(said["outside"])
    dtypes = {name: np.dtype(getattr(jnp, dtype)) for name, dtype in said["dtypes"].items()}
    origin = Origin(Path(path), said["outside"], said["spelling"], dtypes, vocabulary=said.get("vocabulary"))
    config = build(family.config, said["config"], "config")
    return Pretrained(family, config, StoredLeaves.open(step, _PREFIX), origin)


def load_imported(path: str | Path, mesh: Mesh | None = None) -> Pretrained:
    """The same with its parameters read straight into their shards on `mesh` (default: one device), and verified.

    Raises:
      CheckpointError: a leaf is damaged; it is named.
    """
    found = open_imported(path)
    shapes, axes = abstract_parameters(
        found.family.model(found.config, jnp.float32).init, jax.random.key(0), *found.family.inputs(found.config)
    )
    one = dict.fromkeys(shapes, SingleDeviceSharding(jax.local_devices()[0]))
    shardings = one if mesh is None else parameter_shardings(shapes, axes, mesh)
    like = {
        name: jax.ShapeDtypeStruct(shapes[name].shape, leaf.dtype, sharding=shardings[name])
        for name, leaf in found.parameters.items()
    }
    step = _step_of(path)
    with Checkpoints(step.parent) as checkpoints:
        restored = checkpoints.restore(int(step.name), like={"params": like})
    return dataclasses.replace(found, parameters=restored.state["params"])


def exportable(path: str | Path, model_type: str | None = None) -> Pretrained:
    """What `mmjax export` writes: an imported checkpoint, an outside folder, or the parameters of a run.

    model_type: the family to write it as; by default the one that it was imported as, or the first that can. A run that
    began with an import (or with another run that did) has its files and further keys, as far as they still hold.

    Raises:
      InputError: there is no checkpoint at `path`, or no family (or not the one asked for) can express its model.
    """
    if is_imported(path) or _is_outside(path):
        found = open_imported(path) if is_imported(path) else engine.load(path)
        if model_type in (None, found.family.model_type):
            return found
        return _as_family(found.config, found.parameters, model_type)
    workdir, _ = find_run(path)
    loaded = load_run(path, usable_mesh(read_config(workdir)))
    begun = _beginning(loaded.config)
    if begun is None:
        found = _as_family(loaded.model.config, loaded.params, model_type)
    else:
        found = _as_begun(*begun, loaded, model_type)
    if found.origin is not None and found.origin.tokenizer:
        return found
    special = loaded.tokenizer.special
    return dataclasses.replace(found, token_ids={f"{name}_token_id": special[name] for name in ("bos", "eos", "pad")})


def _beginning(config: RunConfig) -> tuple[Family, Any, Origin] | None:
    """The import that a run began with, or that the run it began with did, and so on; None where it is gone."""
    while config.init_from:
        path = local_path(config.init_from)
        if is_imported(path):
            found = open_imported(path)
            return found.family, found.config, found.origin
        if _is_outside(path):
            found = engine.inspect(path)
            return found.family, found.config, found.origin
        try:
            config = read_config(find_run(path)[0])
        except InputError:
            return None
    return None


def _as_begun(family: Family, begun: Any, origin: Origin, run: LoadedRun, model_type: str | None) -> Pretrained:
    """A run in the layout of the import that it began with, or of another family that can express it."""
    config, tokenizer = run.model.config, _is_tokenizer_of(origin.folder, run.config.tokenizer)
    origin = dataclasses.replace(origin, dtypes={}, tokenizer=tokenizer)
    if origin.vocabulary is not None and vocabulary_of(config) != vocabulary_of(begun):
        origin = dataclasses.replace(origin, vocabulary=None)
    if model_type in (None, family.model_type) and isinstance(config, family.config):
        try:
            words = origin.vocabulary
            write_config(family, config if words is None else with_vocabulary(config, words), origin.config)
            lay_out(family, config, origin.spelling, vocabulary=words)
        except _CANNOT_EXPRESS:
            pass
        else:
            return Pretrained(family, config, dict(run.params), origin)
    found = _as_family(config, run.params, model_type)
    origin = dataclasses.replace(origin, config={}, spelling=found.family.spellings[0])
    return dataclasses.replace(found, origin=origin)


def _is_tokenizer_of(folder: Path, config: TokenizerConfig) -> bool:
    """Whether a run reads and writes with the tokenizer of an outside folder."""
    files = {"tokenizer_json": "tokenizer.json", "sentencepiece": "*.model"}
    if config.kind not in files or not Path(config.path).is_file():
        return False
    content = Path(config.path).read_bytes()
    return any(path.read_bytes() == content for path in folder.glob(files[config.kind]))


def load_parameters(path: str | Path, mesh: Mesh) -> dict[str, Array]:
    """The parameters by path of a run, of an imported checkpoint, or of a folder in an outside layout.

    Raises:
      InputError, CheckpointError: as those of the three.
    """
    if is_imported(path):
        return load_imported(path, mesh).parameters
    if _is_outside(path):
        return engine.load(path, mesh=mesh).parameters
    return load_run(path, mesh).params


def initial_params(
    config: RunConfig, shapes: Mapping[str, Any], shardings: Mapping[str, Any], mesh: Mesh
) -> dict[str, Array]:
    """The parameters that `init_from` gives, laid out as the new run wants them.

    Raises:
      InputError: a parameter that the other run lacks, or has in another shape, and `init_missing` does not name; every
        one is listed.
    """
    loaded = load_parameters(config.init_from, mesh)
    missing = [path for path in shapes if path not in loaded or loaded[path].shape != shapes[path].shape]
    allowed = [config.init_missing] if config.init_missing else []
    unexplained = [path for path in missing if first_match(allowed, path) < 0]
    if unexplained:
        listed = ", ".join(
            f"{path} ({loaded[path].shape} there, {shapes[path].shape} here)" if path in loaded else f"{path} (absent)"
            for path in unexplained
        )
        raise InputError(
            f"init_from {config.init_from} does not give: {listed}. Name what may start at random in init_missing"
        )
    return {
        path: jax.device_put(loaded[path].astype(shapes[path].dtype), shardings[path])
        for path in shapes
        if path not in missing
    }


def _as_family(config: Any, parameters: Mapping[str, Any], model_type: str | None) -> Pretrained:
    refusals = []
    if model_type is not None and model_type not in FAMILIES:
        raise InputError(f"the family {model_type!r} is not known; known are: {', '.join(sorted(FAMILIES))}")
    for name, family in FAMILIES.items():
        if not isinstance(config, family.config) or model_type not in (None, name):
            continue
        for resolved in _resolutions(family):
            try:
                write_config(resolved, config, {})
                lay_out(resolved, config, resolved.spellings[0])
            except _CANNOT_EXPRESS as error:
                told = isinstance(error, MmjaxError)
                refusals.append(f"{name}: {error if told else 'it is made of other parts'}")
                continue
            return Pretrained(resolved, config, dict(parameters))
    listed = "\n  ".join(dict.fromkeys(refusals)) or f"none is made of a {type(config).__name__}"
    raise InputError(f"no outside family can express this model:\n  {listed}")


def _resolutions(family: Family) -> Iterator[Family]:
    """The family with each of the families that its parts may be."""
    if not family.parts:
        yield family
        return
    first, *rest = family.parts
    for other in _resolutions(dataclasses.replace(family, parts=tuple(rest))):
        for choice in first.families:
            for part in _resolutions(choice):
                yield dataclasses.replace(other, parts=(dataclasses.replace(first, families=(part,)), *other.parts))


def _is_outside(path: str | Path) -> bool:
    return (Path(path) / "config.json").is_file() and not (Path(path) / "checkpoints").is_dir()


def _step_of(path: str | Path) -> epath.Path:
    path = epath.Path(path).absolute()
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        return path
    return step_folders.step_folder(path / "checkpoints", _STEP)
