"""Makes calls of the reference with a model of ours."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Shaped
from mmjax.core.errors import InputError
from mmjax.decoding.stops import StopStrings
from mmjax.decoding.writer import Opening, Writer
from mmjax.interop.calls.adapters import OF_TOKENS, Adapter, Either, check_places, strictly
from mmjax.interop.calls.generation import SETTINGS, Written, generation_settings, write
from mmjax.interop.calls.kinds import find_adapter
from mmjax.interop.engine import Pretrained
from mmjax.parallel.sharding import current_mesh

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]
# Programs of a model that are kept; where tokens are part of them, most do not come again.
_MOST_PROGRAMS = 64
# What a method raises that looks at its tokens, where these are arguments of its program.
_LOOKED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class Caller:
    """Makes calls of one model, as it lies on the current mesh, by programs that are kept.

    Pictures are arguments of a program, and so are tokens and their masks, unless the method looks at them; all else is
    part of it.
    """

    def __init__(self, pretrained: Pretrained):
        self.pretrained = pretrained
        self._programs: dict[Hashable, Callable[..., Any]] = {}
        self._looking: set[str] = set()

    def call(self, fn: str, arguments: Arrays, kw: Mapping[str, Any]) -> dict[str, Any]:
        """What the reference's method `fn` returns, by its names; where releases differ, a tuple of choices.

        Raises:
          InputError: the family has no such method.
        """
        method = find_method(self.pretrained, fn)
        return self._run(fn, lambda *given: plain(method(*given)), arguments, kw)

    def open(self, arguments: Arrays, kw: Mapping[str, Any]) -> tuple[Opening, Writer]:
        """The prompts of `generate`, and what writes after them.

        Raises:
          InputError: the family does not generate, or the tokens do not go with the pictures.
        """
        adapter = _adapter(self.pretrained)
        if adapter.prompt is None:
            raise InputError(f"a model of the family {self.pretrained.family.model_type} does not generate")
        if adapter.vectors is not None and "input_ids" in arguments:
            places = np.sum(arguments["input_ids"] == self.pretrained.config.image_token)
            check_places(int(places), int(self._run("vectors", adapter.vectors, arguments, kw)))
        opening = self._run("generate", adapter.prompt, arguments, kw)
        return opening, adapter.writer(self.pretrained, opening)

    def generate(
        self,
        arguments: Arrays,
        kw: Mapping[str, Any],
        *,
        stops: StopStrings | None = None,
        answers: Sequence[Sequence[int]] = (),
    ) -> Written:
        """What the reference's `generate` writes, with the settings of the model's folder and over them `kw`.

        stops, answers: as of `generation.write`.

        Raises:
          InputError: as `open`, or a setting is not known here or does not go with the others.
        """
        opening, writer = self.open(arguments, {name: value for name, value in kw.items() if name not in SETTINGS})
        stop = {} if writer.stop is None else {"eos_token_id": writer.stop}
        settings = generation_settings(self.pretrained.origin.folder, {**stop, **kw})
        return write(writer, self.pretrained.parameters, opening, settings, stops=stops, answers=answers)

    def _run(self, name: str, method: Callable[..., Any], arguments: Arrays, kw: Mapping[str, Any]) -> Any:
        if name not in self._looking:
            try:
                return self._program(name, method, arguments, kw, OF_TOKENS)
            except _LOOKED:
                self._looking.add(name)
        return self._program(name, method, arguments, kw, ())

    def _program(self, name, method, arguments, kw, traced):
        given = {key: value for key, value in arguments.items() if key in traced or _is_picture(value)}
        fixed = {key: value for key, value in arguments.items() if key not in given}
        shapes = tuple((key, value.shape, value.dtype.name) for key, value in given.items())
        contents = tuple((key, value.shape, value.tobytes()) for key, value in fixed.items())
        key = (name, current_mesh(), repr(sorted(kw.items())), shapes, contents)
        if key not in self._programs:
            if len(self._programs) >= _MOST_PROGRAMS:
                self._programs.clear()
            self._programs[key] = jax.jit(
                lambda parameters, given: method(self.pretrained, parameters, {**fixed, **given}, kw)
            )
        return self._programs[key](self.pretrained.parameters, given)


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
    return strictly(adapter.methods[fn], fn)


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
    pictures = {name: jnp.asarray(value) for name, value in arguments.items() if _is_picture(value)}
    whole = {name: value for name, value in arguments.items() if name not in pictures}
    program = jax.jit(
        transform(lambda parameters, pictures: finish(method(pretrained, parameters, {**whole, **pictures}, kw)))
    )
    return lambda parameters: program(parameters, pictures)


def plain(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as a tree of arrays: several choices as a tuple."""
    return {name: value.choices if isinstance(value, Either) else value for name, value in outputs.items()}


def _is_picture(value) -> bool:
    return np.issubdtype(value.dtype, np.floating) and value.ndim > 1


def _adapter(pretrained: Pretrained) -> Adapter:
    adapter = find_adapter(pretrained.config)
    if adapter is None:
        raise InputError(f"models of the family {pretrained.family.model_type} can be loaded, but not called here")
    return adapter
