"""Checkpoints of an outside layout in and out, for any family that has a table."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from mmjax.core.arrays import Array, Shaped
from mmjax.core.errors import CheckpointError, InputError
from mmjax.core.folders import check_new, new_folder
from mmjax.core.progress import progress_bar
from mmjax.interop.configs import read_config, write_config
from mmjax.interop.families import FAMILIES
from mmjax.interop.families.decoder_settings import headless
from mmjax.interop.family import Family, Spelling
from mmjax.interop.layout import Entry, Layout, Piece, choose_spelling, lay_out, padded_vocabulary, with_vocabulary
from mmjax.interop.tensors import DTYPES, StoredTensor, open_folder, write_folder
from mmjax.interop.transforms import contiguous
from mmjax.parallel.sharding import parameter_shardings

# Files that go along with weights and are not changed by us: what depends on the tokenizer, and the processor.
TOKENIZER_FILES = (
    "generation_config.json",
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "chat_template.*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.*",
)
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "qformer_tokenizer/*",
    "video_preprocessor_config.json",
)
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
EXPORT_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclasses.dataclass(frozen=True)
class Origin:
    """What an imported checkpoint looked like, so that it can be given back as it was.

    dtypes: of its tensors, by name; empty where the model has been trained since, and has types of its own.
    tokenizer: whether its tokenizer is still the model's.
    vocabulary: how many words it has, where the model's vocabulary has been padded; else None.
    """

    folder: Path
    config: Mapping[str, Any]
    spelling: Spelling
    dtypes: Mapping[str, np.dtype]
    tokenizer: bool = True
    vocabulary: int | None = None


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model of ours with parameters, and the outside family that it can be written as.

    token_ids: bos_token_id, eos_token_id and pad_token_id of its tokenizer, where that is not its origin's.
    """

    family: Family
    config: Any
    parameters: dict[str, Shaped[Array, "..."]]
    origin: Origin | None = None
    token_ids: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def model(self, dtype: Any = jnp.float32) -> nn.Module:
        """The Linen module, computing in `dtype`."""
        return self.family.model(self.config, dtype)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `load` would do with a folder: which tensor goes where. Nothing but headers is read."""

    family: Family
    config: Any
    origin: Origin
    layout: Layout
    tensors: dict[str, StoredTensor]


def inspect(folder: str | Path) -> Inspection:
    """Reads the config and the tensors' names and shapes of a checkpoint folder, and checks that they fit.

    Raises:
      InputError: not such a folder, an unknown family, or a setting that cannot be represented.
      CheckpointError: missing, extra or mis-shaped tensors; all of them are listed.
    """
    folder = Path(folder)
    tensors = open_folder(folder)
    outside, family = open_config(folder)
    family = family.resolve(outside)
    spelling = choose_spelling(family, tensors)
    detected = family.all_detected({name: tensor.shape for name, tensor in tensors.items()}, spelling)
    config = read_config(family, outside, detected)
    layout = lay_out(family, config, spelling)
    ignored = re.compile("|".join(f"(?:{pattern})" for pattern in family.all_ignored()) or r"(?!)")
    tensors = {name: t for name, t in tensors.items() if name in layout.entries or not ignored.fullmatch(name)}
    _check(folder, layout, tensors)
    origin = Origin(folder, outside, spelling, {name: tensor.dtype for name, tensor in tensors.items()})
    return Inspection(family, config, origin, layout, tensors)


def pad_vocabulary(plan: Inspection, multiple: int) -> Inspection:
    """The same with the vocabulary rounded up to a multiple; what is exported again has its own size.

    Raises:
      InputError: as `layout.padded_vocabulary`.
    """
    config, words = padded_vocabulary(plan.config, multiple)
    layout = lay_out(plan.family, config, plan.origin.spelling, vocabulary=words)
    origin = dataclasses.replace(plan.origin, vocabulary=words)
    return dataclasses.replace(plan, config=config, layout=layout, origin=origin)


def open_config(folder: Path) -> tuple[dict[str, Any], Family]:
    """The config.json of a folder, and the family that it names (its parts not resolved yet).

    Raises:
      InputError: it is missing or broken, or names no known family.
    """
    path = folder / "config.json"
    try:
        outside = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{folder} has no config.json, which says what the weights are") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(outside, dict):
        raise InputError(f"{path} must hold an object, not {type(outside).__name__}")
    family = FAMILIES.get(outside.get("model_type"))
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise InputError(
            f"{folder} is of the family {outside.get('model_type')!r}, which is not known; known are: {known}"
        )
    return outside, family


def _check(folder: Path, layout: Layout, tensors: Mapping[str, StoredTensor]) -> None:
    """Raises one error that lists every missing, extra and mis-shaped name."""
    missing = [name for name, entry in layout.entries.items() if name not in tensors and not entry.tied]
    extra = sorted(set(tensors) - set(layout.entries))
    lines = [f"missing: {name} {list(layout.entries[name].shape)}" for name in sorted(missing)]
    lines += [f"extra: {name} {list(tensors[name].shape)}" for name in extra]
    for name in sorted(set(tensors) & set(layout.entries)):
        expected, found = layout.entries[name].shape, tensors[name].shape
        if expected != found:
            lines.append(f"wrong shape: {name} is {list(found)}, config.json says {list(expected)}")
        elif not jnp.issubdtype(tensors[name].dtype, jnp.floating):
            lines.append(f"wrong type: {name} is {tensors[name].dtype}, not floating point")
    if lines:
        raise CheckpointError(f"the tensors of {folder} do not fit its config.json:\n  " + "\n  ".join(lines))


def load(folder: str | Path, *, mesh: Mesh | None = None, dtype: Any = jnp.float32) -> Pretrained:
    """Reads a checkpoint folder, tensor by tensor, straight into the device layout of `mesh` (default: one device).

    The host holds one outside tensor at a time, whatever the model's size.

    Raises:
      InputError, CheckpointError: as `inspect`; also where a tied tensor differs from what it is tied to.
    """
    plan = inspect(folder)
    shardings: Mapping[str, Any] = dict.fromkeys(plan.layout.shapes, SingleDeviceSharding(jax.devices()[0]))
    if mesh is not None:
        shardings = parameter_shardings(plan.layout.shapes, plan.layout.axes, mesh)
    parameters: dict[str, Array] = {}
    for piece, part in read_pieces(plan):
        shape = plan.layout.shapes[piece.path].shape
        parameters[piece.path] = _placed(
            parameters.get(piece.path), part, piece.index, shape, shardings[piece.path], dtype
        )
    return Pretrained(plan.family, plan.config, {path: parameters[path] for path in plan.layout.shapes}, plan.origin)


def read_pieces(plan: Inspection) -> Iterator[tuple[Piece, Shaped[np.ndarray, "..."]]]:
    """The parameters, or layers of them, tensor by tensor; the host holds one tensor at a time.

    Raises:
      CheckpointError: a tied tensor differs from what it is tied to.
    """
    stored = [plan.layout.entries[name] for name in plan.tensors]
    ties: dict[str, list[Entry]] = {}
    for entry in stored:
        if entry.tied:
            ties.setdefault(entry.pieces[0].path, []).append(entry)
    for entry in progress_bar([entry for entry in stored if not entry.tied], what="import", unit="tensor"):
        tensor = plan.tensors[entry.name].read()
        parts = entry.transform.to_inside(tensor, [piece.shape for piece in entry.pieces])
        for piece, part in zip(entry.pieces, parts, strict=True):
            for tie in ties.get(piece.path, ()):
                _check_tied(tie, plan.tensors[tie.name].read(), part)
            yield piece, contiguous(part)


def _placed(buffer, part: np.ndarray, index, shape, sharding, dtype) -> Array:
    """The parameter with one piece put in its place, on the devices that hold it."""
    if index is None:
        whole = jax.make_array_from_callback(shape, sharding, lambda where: part[where])
        return jax.block_until_ready(whole.astype(dtype))
    if buffer is None:
        buffer = _zeros(shape, dtype, sharding)()
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    piece = jax.make_array_from_callback(part.shape, sharding, lambda where: part[where])
    return jax.block_until_ready(_insert(buffer, piece, index))


@functools.cache
def _zeros(shape, dtype, sharding) -> Callable[[], Array]:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.partial(jax.jit, donate_argnums=0)
def _insert(buffer, piece, index):
    return jax.lax.dynamic_update_index_in_dim(buffer, piece.astype(buffer.dtype), index, 0)


def _check_tied(entry: Entry, tensor: np.ndarray, parameter: np.ndarray) -> None:
    if not np.array_equal(tensor, entry.transform.to_outside([parameter])):
        raise CheckpointError(
            f"config.json says that {entry.name} is tied to the embeddings, but the file holds another tensor for it; "
            "set tie_word_embeddings to false in config.json to use it"
        )


def export(
    pretrained: Pretrained,
    folder: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes config.json, safetensors (sharded above `max_shard_bytes`), generation_config.json of a model that writes,
    and the tokenizer's and the processor's files where they are known.

    dtype: "float32", "bfloat16" or "float16"; None: every tensor in the type that it was imported in, else float32.

    Raises:
      InputError: an unknown dtype, a config that the family's layout cannot express, or a folder that is not empty.
      CheckpointError: parameters that are not those of the config.
    """
    if dtype not in (None, *EXPORT_DTYPES):
        raise InputError(f"dtype must be one of {', '.join(EXPORT_DTYPES)}, not {dtype!r}")
    check_new(folder)
    family, origin = pretrained.family, pretrained.origin
    words = origin.vocabulary if origin else None
    config = pretrained.config if words is None else with_vocabulary(pretrained.config, words)
    outside = write_config(family, config, origin.config if origin else {})
    outside.setdefault("model_type", family.model_type)
    outside.setdefault("architectures", [family.architecture])
    if family.writes:
        _text_of(outside).update(pretrained.token_ids)
    if dtype is not None or origin is None or not origin.dtypes:
        outside["torch_dtype" if "torch_dtype" in outside else "dtype"] = dtype or "float32"
    spelling = origin.spelling if origin else family.spellings[0]
    layout = lay_out(family, pretrained.config, spelling, vocabulary=words)
    _check_parameters(layout, pretrained.parameters)
    imported = origin.dtypes if origin else {}
    entries = {name: entry for name, entry in layout.entries.items() if not entry.tied or name in imported}
    with new_folder(folder) as made, progress_bar(total=len(entries), what="export", unit="tensor") as bar:
        chosen = DTYPES[EXPORT_DTYPES[dtype or "float32"]]
        write_folder(
            made,
            {name: entry.shape for name, entry in entries.items()},
            {name: chosen if dtype else imported.get(name, chosen) for name in entries},
            _contents(entries, pretrained.parameters, bar.update),
            max_shard_bytes,
        )
        (made / "config.json").write_text(json.dumps(outside, indent=2, sort_keys=True) + "\n")
        if origin is not None:
            copy_side_files(origin.folder, made, tokenizer=origin.tokenizer)
        if family.writes and not headless(outside):
            _write_generation(made / "generation_config.json", outside)


def _text_of(outside: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that names the tokens of the text."""
    return next((outside[key] for key in ("text_config", "lang", "decoder") if key in outside), outside)


def _write_generation(path: Path, outside: dict[str, Any]) -> None:
    """The tokens that config.json names, unless there is a file already."""
    if path.exists():
        return
    tokens = {key: outside.get(key, _text_of(outside).get(key)) for key in _TOKENS}
    named = {key: token for key, token in tokens.items() if token is not None}
    path.write_text(json.dumps({"_from_model_config": True, **named}, indent=2, sort_keys=True) + "\n")


def copy_side_files(source: Path, target: Path, *, tokenizer: bool = True) -> None:
    """Copies what goes along with weights and is there; without `tokenizer`, what pictures need alone."""
    for pattern in (*PROCESSOR_FILES, *(TOKENIZER_FILES if tokenizer else ())):
        for path in source.glob(pattern):
            if path.is_file():
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)


def _check_parameters(layout: Layout, parameters: Mapping[str, Array]) -> None:
    lines = [f"missing: {path}" for path in layout.shapes if path not in parameters]
    lines += [f"extra: {path}" for path in parameters if path not in layout.shapes]
    lines += [
        f"wrong shape: {path} is {list(parameters[path].shape)}, the config says {list(shape.shape)}"
        for path, shape in layout.shapes.items()
        if path in parameters and parameters[path].shape != shape.shape
    ]
    if lines:
        raise CheckpointError("the parameters do not fit the config:\n  " + "\n  ".join(lines))


def _contents(entries: Mapping[str, Entry], parameters: Mapping[str, Array], done: Callable) -> Callable:
    def contents(name: str) -> np.ndarray:
        entry = entries[name]
        parts = []
        for piece in entry.pieces:
            whole = parameters[piece.path]
            parts.append(np.asarray(whole if piece.index is None else whole[piece.index]))
        done()
        return entry.transform.to_outside(parts)

    return contents
