"""What is claimed of pods, told by the TPU compiler: sharding, weak scaling, the start, the loss, over-full plans.

    .venv/bin/python -m benchmarks.pods [sharding] [scaling] [start] [loss] [overfull]

Prints one line a figure, with the limit that it is held to. Needs `pip install mmjax[plan]`; takes some minutes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mmjax.cli.configs import config_chips, load_config
from mmjax.core.config import to_tree
from mmjax.objectives.vocabulary import loss_shards
from mmjax.ops.losses import linear_cross_entropy
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parallel.sharding import batch_sharding, storage_spec, use_mesh
from mmjax.planning.child import Program
from mmjax.planning.compiler import compile_program
from mmjax.planning.moves import fitting_moves
from mmjax.planning.plan import ProgramPlan, Request, plan
from mmjax.planning.stored import PlanStore, default_folder
from mmjax.planning.topology import parse_topology

STORE = PlanStore(default_folder())


def say(what: str, value: float, limit: str, *, good: bool) -> None:
    """One figure and what it is held to."""
    print(f"{'ok  ' if good else 'MISS'} {what}: {value:.4g} ({limit})", flush=True)


def train_plan(config: str, chips: str, overrides: Mapping[str, Any]) -> ProgramPlan:
    """The plan of a config's train step."""
    run = load_config(config, [(key, str(value)) for key, value in overrides.items()])
    request = Request(run, parse_topology(chips), ("train",), None)
    return plan(request, store=STORE)["train"]


def sharding() -> None:
    """State on each device, donation, gathers outside loops, program size by depth, bounds."""
    for config, layers in (("flamingo_9b", 40), ("paligemma_3b", 18)):
        [chips] = config_chips(config)
        one = train_plan(config, chips, {})
        devices = parse_topology(chips).device_count
        share = one.state_bytes * devices / one.whole_state_bytes
        say(f"{config}: state on a device, of an even share", share, "at most 1.02", good=share <= 1.02)
        donated = one.donated_bytes / one.state_bytes
        say(f"{config}: state that is donated", donated, "at least 0.99", good=donated >= 0.99)
        whole = len(one.whole_gathers)
        say(f"{config}: gathers of a whole stack outside its loop", whole, "0", good=not whole)
        deep = train_plan(config, chips, {"model.config.decoder.layers": 2 * layers})
        ratio = deep.program_bytes / one.program_bytes
        say(f"{config}: program size at twice the depth", ratio, "at most 1.05", good=ratio <= 1.05)
        mfu = one.roofline_mfu
        say(f"{config}: MFU at the roofline", mfu, "at least 0.7", good=mfu >= 0.7)
        ici = one.bound_seconds["ici"] / one.bound_seconds["compute"]
        say(f"{config}: ICI time, of compute time", ici, "at most 0.5", good=ici <= 0.5)


def scaling() -> None:
    """Flamingo-3B on more and more chips, eight rows a chip."""
    first = None
    for chips, data, fsdp in (("v5p:2x2x2", 4, 2), ("v5p:4x4x4", 16, 4), ("v5p:8x8x8", 64, 8), ("v5p:8x8x16", 64, 16)):
        count = parse_topology(chips).device_count
        mesh = {"mesh.data": data, "mesh.fsdp": fsdp, "batch_size": 8 * count}
        one = train_plan("flamingo_3b", chips, mesh)
        first = first or one
        flops, memory = one.hardware_flops / first.hardware_flops, one.hbm_bytes / first.hbm_bytes
        say(f"{chips}: FLOPs a device, of those on 8", flops, "within 1%", good=abs(flops - 1) <= 0.01)
        say(f"{chips}: peak HBM, of that on 8", memory, "at most 1.02", good=memory <= 1.02)


def start() -> None:
    """The first state of Flamingo-80B, made where it will lie."""
    chips = config_chips("flamingo_80b")[0]
    run, topology = load_config(f"flamingo_80b:{chips}", []), parse_topology(chips)
    result = compile_program(
        "mmjax.planning.programs:start", {"config": to_tree(run), "topology": topology.name, "slices": 1}
    )
    state, whole = result.facts["state_bytes"], result.facts["whole_state_bytes"]
    print(f"     flamingo_80b on {chips}: state {whole / 1e9:.0f} GB, {state / 1e9:.2f} GB of it on a device")
    peak = result.memory.hbm_bytes / state
    say(
        "flamingo_80b: peak HBM while the state is made, of the state on a device",
        peak,
        "at most 1.5",
        good=peak <= 1.5,
    )


def loss_program(
    topology: str, mesh: Mapping[str, int], tokens: int, chunk: int, width: int, words: int, dtype: str
) -> Program:
    """The loss of `tokens` tokens a device, with the gradients of hidden states and kernel."""
    mesh = make_mesh(MeshConfig(**mesh), parse_topology(topology).devices())
    spec = storage_spec((words, width), ("vocab", "embed"), mesh, "full")

    def rows(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, shape))

    hidden = rows((mesh.size, tokens, width), jnp.dtype(dtype))
    kernel = jax.ShapeDtypeStruct((words, width), jnp.float32, sharding=NamedSharding(mesh, spec))
    targets, weights = rows((mesh.size, tokens), jnp.int32), rows((mesh.size, tokens), jnp.float32)

    def run(hidden, kernel, targets, weights):
        with use_mesh(mesh, "full"):
            shards = loss_shards(hidden.shape, kernel.shape, chunk)

            def loss(hidden, kernel):
                return linear_cross_entropy(hidden, kernel, targets, weights, chunk_size=chunk, shards=shards).loss

            value, (of_hidden, of_kernel) = jax.value_and_grad(loss, (0, 1))(hidden, kernel)
            return value, of_hidden, jax.lax.with_sharding_constraint(of_kernel, kernel_place)

    kernel_place = kernel.sharding
    return Program(jax.jit(run, donate_argnums=0).trace(hidden, kernel, targets, weights), {})


def loss() -> None:
    """Temporary memory of the loss of 16k tokens over a vocabulary of 256k, of one chunk's logits."""
    words, width = 2**18, 2048
    for topology, mesh, tokens, chunk, dtype in (
        ("v5e:1x1", {}, 2**14, 1024, "float32"),
        ("v5e:4x4", {"data": 4, "fsdp": 4}, 1024, 1024, "bfloat16"),
        ("v5e:16x16", {"data": 16, "fsdp": 16}, 4096, 4096, "bfloat16"),
        ("v5e:16x16", {"data": 16, "fsdp": 16}, 2**14, 1024, "bfloat16"),
    ):
        arguments = {"topology": topology, "mesh": mesh, "tokens": tokens, "chunk": chunk, "width": width}
        result = compile_program("benchmarks.pods:loss_program", {**arguments, "words": words, "dtype": dtype})
        ratio = result.memory.temp_bytes / (chunk * words * 4)
        what = (
            f"loss of {tokens} tokens a device in chunks of {chunk}, {dtype}, {topology}: memory, of a chunk's logits"
        )
        say(what, ratio, "at most 1.1", good=ratio <= 1.1)


def overfull() -> None:
    """A plan that does not fit is refused with the compiler's figure, and a suggested move compiles."""
    run = load_config("llava_1_5_7b", [("model.config.decoder.remat", "none")])
    request = Request(run, parse_topology(config_chips("llava_1_5_7b")[0]), ("train",), None)
    one = plan(request, store=STORE)["train"]
    over = one.hbm_bytes / one.available_bytes
    say("llava_1_5_7b without recomputation: HBM it needs, of available", over, "above 1", good=not one.fits)
    for move in fitting_moves(request, "train", store=STORE):
        fits = move.plan.hbm_bytes / move.plan.available_bytes
        print(f"     {move.kind}: {move.settings}: {fits:.3f} of available, {'fits' if move.plan.fits else 'no'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts that are named, or all."""
    parts = {function.__name__: function for function in (sharding, scaling, start, loss, overfull)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    chosen = parser.parse_args(arguments).parts or list(parts)
    for name in chosen:
        if name not in parts:
            parser.error(f"{name} is not one of {', '.join(parts)}")
        parts[name]()


if __name__ == "__main__":
    main()
