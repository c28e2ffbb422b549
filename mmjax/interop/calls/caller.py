"""Makes a call of the reference with a model of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Int, Shaped
from mmjax.core.errors import InputError
from mmjax.interop.calls.adapters import Adapter, Either
from mmjax.interop.calls.greedy import generation_settings, greedy
from mmjax.interop.calls.kinds import ADAPTERS
from mmjax.interop.engine import Pretrained

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


def find_method(pretrained: Pretrained, fn: str) -> Callable[..., Any]:
    """The function that stands for the reference's method `fn`.

    Raises:
      InputError: there is none; those that there are are listed.
    """
    adapter = _adapter(pretrained)
    if fn not in adapter.methods:
        known = [*adapter.methods, *(["generate"] if adapter.prompt else [])]
        raise InputError(
            f"{fn} is not known of the family {pretrained.family.model_type}; known are: {', '.join(known)}"
        )
    return adapter.methods[fn]


def compiled(
    pretrained: Pretrained,
    method: Callable[..., Any],
    arguments: Arrays,
    kw: Mapping[str, Any],
    finish: Callable[[Any], Any],
    transform: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
) -> Callable[[Mapping[str, Array]], Any]:
    """`finish` of what a method gives, as a program of the parameters.

    Pictures are arguments of the program too. Tokens, masks, sizes and times are part of it, so a method may look at
    them. `transform` is applied before compiling (`jax.grad`).
    """
    pictures = {
        name: jnp.asarray(value)
        for name, value in arguments.items()
        if np.issubdtype(value.dtype, np.floating) and value.ndim > 1
    }
    whole = {name: value for name, value in arguments.items() if name not in pictures}
    program = jax.jit(
        transform(lambda parameters, pictures: finish(method(pretrained, parameters, {**whole, **pictures}, kw)))
    )
    return lambda parameters: program(parameters, pictures)


def plain(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as a tree of arrays: several choices as a tuple."""
    return {name: value.choices if isinstance(value, Either) else value for name, value in outputs.items()}


def call(pretrained: Pretrained, fn: str, arguments: Arrays, kw: Mapping[str, Any]) -> dict[str, Any]:
    """What the reference's method `fn` returns, by its names; where releases differ, a tuple of choices.

    Raises:
      InputError: the family has no such method.
    """
    return compiled(pretrained, find_method(pretrained, fn), arguments, kw, plain)(pretrained.parameters)


class Written(NamedTuple):
    """What the reference's `generate` returns, and where in it the prompt ends."""

    sequences: Int[np.ndarray, "B T"]
    start: int


def generate(pretrained: Pretrained, folder: Path, arguments: Arrays, kw: Mapping[str, Any]) -> Written:
    """Greedy tokens, with the settings of `folder` and over them `kw`.

    Raises:
      InputError: the family does not generate, or `kw` asks for more than greedy decoding.
    """
    adapter = _adapter(pretrained)
    if adapter.prompt is None:
        raise InputError(f"a model of the family {pretrained.family.model_type} does not generate")
    prompt = compiled(pretrained, adapter.prompt, arguments, kw, lambda prompt: prompt)(pretrained.parameters)
    writer = adapter.writer(pretrained, prompt)
    stop = {} if writer.stop is None else {"eos_token_id": writer.stop}
    settings = generation_settings(folder, {**stop, **kw})
    return Written(greedy(writer, pretrained.parameters, prompt, settings), prompt.sequences.shape[1])


def _adapter(pretrained: Pretrained) -> Adapter:
    adapter = ADAPTERS.get(type(pretrained.config))
    if adapter is None:
        raise InputError(f"models of the family {pretrained.family.model_type} can be loaded, but not called here")
    return adapter
