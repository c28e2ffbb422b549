"""Model FLOPs: what the mathematics of a step costs, whatever is recomputed or computed in vain."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from mmjax.ops.attention import default_backend
from mmjax.ops.flops import count_flops
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.planning.programs import ServingShape, decode_step, prefill_step, train_step
from mmjax.training.run import RunConfig

_SEEN = re.compile(r"(?:^|/)seen_(\d+)_of_(\d+)(?:/|$)")


def model_flops(run: RunConfig, serving: ServingShape | None) -> dict[str, int]:
    """FLOPs of one train step, and of one prefill and one decode step if `serving`, over all devices.

    Counted on one device without recomputation. Of attention, the pairs that causality and windows leave count (of a
    causal grid half, as is the custom); masks of packed examples and padding do not make it less. Frozen parts cost
    what their forward pass and the gradients that go through them cost.
    """
    whole, mesh = _on_one_device(run, "none")
    counts = {"train": step_flops(run, "none")}
    with default_backend("reference"):
        if serving is not None:
            read, params, prompts, _ = prefill_step(whole, mesh, serving)
            # Without the cache, whose places for the tokens to come a prompt does not look at.
            counts["prefill"] = seen_flops(lambda params, prompts: read(params, prompts, None)[0], params, prompts)
            write, arguments = decode_step(whole, mesh, serving)
            counts["decode"] = seen_flops(write, *arguments)
    return counts


def step_flops(run: RunConfig, remat: str) -> int:
    """The same of a train step whose towers all have the policy `remat`: what is computed again counts again."""
    whole, mesh = _on_one_device(run, remat)
    with default_backend("reference"):
        step, plan, batch = train_step(whole, mesh)
        return seen_flops(step, plan.abstract, batch)


def _on_one_device(run: RunConfig, remat: str) -> tuple[RunConfig, Mesh]:
    model = dataclasses.replace(run.model, config=remat_everywhere(run.model.config, remat))
    whole = dataclasses.replace(run, mesh=MeshConfig(), accumulate_steps=1, model=model)
    return whole, make_mesh(MeshConfig(), jax.devices("cpu")[:1])


def seen_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of function(*arguments) under the "reference" backend, where only the pairs that attention sees count."""
    count = count_flops(function, *arguments, scope_depth=99)
    vain = 0
    for scope, flops in count.by_scope.items():
        found = _SEEN.search(scope)
        if found:
            vain += flops - flops * int(found[1]) // int(found[2])
    return count.total - vain


def remat_everywhere(tree: Any, policy: str) -> Any:
    """A model's settings with every tower's `remat` set to `policy`."""
    if isinstance(tree, Mapping):
        return {key: policy if key == "remat" else remat_everywhere(value, policy) for key, value in tree.items()}
    return tree
