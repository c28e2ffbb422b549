"""What a family's table holds: a variant of a model, and the calls that are made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

GREEDY = {"max_new_tokens": 8, "do_sample": False}
BEAMS = {
    "max_new_tokens": 8,
    "do_sample": False,
    "num_beams": 4,
    "num_return_sequences": 2,
    "length_penalty": 0.7,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3,
    "return_dict_in_generate": True,
    "output_scores": True,
}
HIDDEN = {"output_hidden_states": True}


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a method of the reference.

    Attributes:
      name: the call's name in the folder.
      arrays: arguments that are arrays, by the method's own names.
      fn: the method.
      kw: the other arguments, as JSON has them.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    fn: str = "forward"
    kw: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A small model of a family.

    Attributes:
      class_name: the class in the reference package.
      settings: the keyword arguments of its configuration; parts of it are dicts with a `model_type`.
      calls: (random numbers, settings) -> the calls. The arrays differ between seeds, their shapes do not.
      grads_of: `<call>/<output>` whose mean square is differentiated. The call has no padding: what the reference
        computes at padding is an accident of how it fills its masks.
      package: the reference package.
    """

    class_name: str
    settings: Mapping[str, Any]
    calls: Callable[[np.random.Generator, Mapping[str, Any]], Sequence[Call]]
    grads_of: str
    package: str = "transformers"
