"""Writes a parity folder: a random model's checkpoint, and what the reference computes with it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from third_party.oracles.rows import WORDS
from third_party.oracles.variants import Call, Variant

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

MODULES = {"transformers": "hugging_face", "open_flamingo": "open_flamingo"}
# Caches, and weights that no implementation with a fused attention can give; and what a search weighs on its way.
LEFT_OUT = (
    "past_key_values",
    "attentions",
    "cross_attentions",
    "encoder_attentions",
    "decoder_attentions",
    "scores",
)
ATTEMPTS = 100
CLEAR = 3e-3  # how far the logit of each generated token is ahead of the next


def write(folder: Path, variant: Variant, seed: int) -> None:
    """Writes the parity folder of a variant.

    Args:
      folder: where to; made if it is not there.
      variant: the model and its calls.
      seed: of the parameters and of the inputs.

    Raises:
      ImportError: the reference implementation is not installed.
      RuntimeError: no model of this seed generates clearly.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    reference = importlib.import_module(f"third_party.oracles.{MODULES[variant.package]}")
    calls = variant.calls(np.random.default_rng(seed), variant.settings)
    for attempt in range(ATTEMPTS):
        torch.manual_seed(seed)
        model = reference.build(variant.class_name, variant.settings).float().eval()
        randomize(model, seed * ATTEMPTS + attempt)
        if all(generates_clearly(model, call) for call in calls if call.fn == "generate"):
            break
    else:
        raise RuntimeError(f"none of {ATTEMPTS} models generates words clearly; try another seed")
    folder.mkdir(parents=True, exist_ok=True)
    reference.save(model, folder)

    outputs = {call.name: run(model, call) for call in calls}
    np.savez(folder / "inputs.npz", **_named({call.name: call.arrays for call in calls}))
    np.savez(
        folder / "outputs.npz",
        **_named({name: {key: x.detach().numpy() for key, x in output.items()} for name, output in outputs.items()}),
    )
    name, _, key = variant.grads_of.partition("/")
    outputs[name][key].square().mean().backward()
    _save_gradients(reference, model, folder)
    content = {
        "reference": reference.VERSION,
        "class": variant.class_name,
        "calls": [{"name": call.name, "fn": call.fn, "kw": dict(call.kw)} for call in calls],
        "grads_of": variant.grads_of,
    }
    (folder / "oracle.json").write_text(json.dumps(content, indent=2) + "\n")


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Moves every parameter away from its start, zeros and ones included, by steps of its own size.

    A parameter of one number (a gate, a temperature) moves by at least a half, so that it counts.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.numel() == 1:
                parameter.add_(torch.sign(noise) * (0.5 + 0.25 * noise.abs()))
            elif parameter.ndim == 1:
                parameter.add_(0.25 * noise)
            else:
                inputs = parameter[0].numel() if parameter.ndim == 4 else parameter.shape[-1]
                parameter.add_(noise * inputs**-0.5)


def run(model: torch.nn.Module, call: Call) -> dict[str, torch.Tensor]:
    """The outputs of one call by their dotted names; attached to the graph where the method is."""
    arguments = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in call.arrays.items()}
    output = getattr(model, call.fn)(**arguments, **call.kw)
    if isinstance(output, torch.Tensor):
        output = {"sequences" if call.fn == "generate" else call.fn.removeprefix("get_"): output}
    return {name: tensor for name, tensor in flattened(output) if tensor.is_floating_point() or name == "sequences"}


def generates_clearly(model: torch.nn.Module, call: Call) -> bool:
    """Whether what is generated are words, each ahead of the next best; of beams, the best text ahead of the next.

    What an image's token means without an image is anybody's guess, and rounding decides between equals.
    """
    if call.kw.get("num_beams", 1) > 1:
        return _searches_clearly(model, call)
    report = {"output_logits": True, "return_dict_in_generate": True}
    new = run(model, dataclasses.replace(call, kw={**call.kw, **report}))
    prompt = next((call.arrays[name] for name in ("input_ids", "lang_x") if name in call.arrays), np.zeros((1, 0)))
    images = max(WORDS.stop, getattr(model, "eoc_token_id", -1) + 1)
    is_words = int((new["sequences"] >= images).sum()) <= int((prompt >= images).sum())
    best = torch.stack([logits for name, logits in new.items() if name.startswith("logits.")]).topk(2).values
    return is_words and bool((best[..., 0] - best[..., 1] > CLEAR).all())


def _searches_clearly(model: torch.nn.Module, call: Call) -> bool:
    found = run(model, call)
    scores = found["sequences_scores"].reshape(-1, call.kw["num_return_sequences"])
    return bool((scores[:, 0] - scores[:, 1] > CLEAR).all())


def flattened(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of nested outputs by dotted name, those of tuples by number; without caches and attention weights."""
    if isinstance(value, torch.Tensor):
        yield ".".join(path), value
    elif path and path[-1] in LEFT_OUT:
        return
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from flattened(part, (*path, key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, part in enumerate(value):
            yield from flattened(part, (*path, str(number)))


def _named(calls: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{call}/{name}": array for call, arrays in calls.items() for name, array in arrays.items()}


def _save_gradients(reference: Any, model: torch.nn.Module, folder: Path) -> None:
    """Saves the gradients as if they were the parameters, so that they get the checkpoint's names; ends the model."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        for buffer in model.buffers():
            buffer.zero_()
    with tempfile.TemporaryDirectory() as scratch:
        reference.save(model, Path(scratch))
        save_file(load_file(Path(scratch) / "model.safetensors"), folder / "grads.safetensors")
