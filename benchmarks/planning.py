"""What it costs to compile for a TPU slice that is not there, with and without code generation.

    python -m benchmarks.planning [--full] [--layers 8 80] [--width 8192] [--topology v5p:4x4x4]

The program is a training step (AdamW, float32 state) of a scanned decoder: causal attention and a feed-forward net of
four widths, recomputed in the backward pass, sharded over `fsdp` and `tensor`.
"""

import argparse
import json
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.planning.child import Program
from mmjax.planning.compiler import OutOfMemory, compile_program
from mmjax.planning.hlo import program_facts
from mmjax.planning.topology import parse_topology

HEAD = 128
VOCABULARY = 32768


def decoder(topology: str, axes: dict[str, int], layers: int, width: int, length: int, rows: int) -> Program:
    """The training step of a decoder; `rows` of `length` tokens in all."""
    devices = parse_topology(topology).devices()
    grid = mesh_utils.create_device_mesh(tuple(axes.values()), devices=devices, allow_split_physical_axes=True)
    mesh = Mesh(grid, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    optimizer = optax.adamw(1e-4)

    def laid(x, *spec):
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*spec)))

    def layer(x, weights):
        w = jax.tree.map(lambda one: one.astype(jnp.bfloat16), weights)
        q, k, v = (laid(jnp.einsum("btd,dhk->bthk", x, w[name]), "fsdp", None, "tensor") for name in "qkv")
        scores = jnp.einsum("bthk,bshk->bhts", q, k).astype(jnp.float32) * HEAD**-0.5
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e30)
        mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores).astype(jnp.bfloat16), v)
        x = laid(x + jnp.einsum("bthk,hkd->btd", mixed, w["o"]), "fsdp")
        return laid(x + laid(jax.nn.gelu(x @ w["up"]), "fsdp", None, "tensor") @ w["down"], "fsdp"), None

    def loss(params, tokens):
        x = laid(params["embed"].astype(jnp.bfloat16)[tokens], "fsdp")
        x, _ = jax.lax.scan(jax.checkpoint(layer), x, params["layers"])
        logits = laid(jnp.einsum("btd,vd->btv", x, params["embed"].astype(jnp.bfloat16)), "fsdp", None, "tensor")
        return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), tokens).mean()

    def step(state, tokens):
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params, tokens)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    def abstract(shape, *spec, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))

    heads = width // HEAD
    inner = {name: abstract((layers, width, heads, HEAD), None, "fsdp", "tensor") for name in "qkv"}
    inner["o"] = abstract((layers, heads, HEAD, width), None, "tensor", None, "fsdp")
    inner["up"] = abstract((layers, width, 4 * width), None, "fsdp", "tensor")
    inner["down"] = abstract((layers, 4 * width, width), None, "tensor", "fsdp")
    params = {"embed": abstract((VOCABULARY, width), "tensor", "fsdp"), "layers": inner}
    by_shape = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(params)} | {(): NamedSharding(mesh, P())}
    moments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_shape[leaf.shape]),
        jax.eval_shape(optimizer.init, params),
    )
    traced = jax.jit(step, donate_argnums=0).trace((params, moments), abstract((rows, length), "fsdp", dtype=jnp.int32))
    return Program(traced, {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))})


def measure(arguments: dict[str, Any], full: bool) -> dict[str, Any]:
    """One compilation: seconds on the clock and of the processor, and the size of what came out."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    compiled = compile_program("benchmarks.planning:decoder", arguments, full=full)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {
        "layers": arguments["layers"],
        "full": full,
        "billions": round(compiled.facts["parameters"] / 1e9, 1),
        "seconds": {part: round(value, 1) for part, value in compiled.seconds.items()},
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "largest_child_gigabytes": round(after.ru_maxrss / 2**20, 2),
    }
    if isinstance(compiled, OutOfMemory):
        return row | {"out_of_memory": compiled.message}
    begin = time.perf_counter()
    facts = program_facts(compiled.hlo, arguments["axes"])
    return row | {
        "hbm_gigabytes": round(compiled.memory.hbm_bytes / 2**30, 2),
        "text_bytes": facts.text_bytes,
        "reading_seconds": round(time.perf_counter() - begin, 2),
        "donated_share": round(facts.donated_bytes / facts.argument_bytes, 4),
        "flattened": len(facts.flattened()),
        "cycles": facts.cycles,
    }


def main() -> None:
    """Prints a line of JSON for each depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="generate the code too, which takes a minute or more")
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 80])
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--topology", default="v5p:4x4x4")
    options = parser.parse_args()
    devices = parse_topology(options.topology).device_count
    for layers in options.layers:
        axes = {"fsdp": devices // 4, "tensor": 4}
        sizes = {"layers": layers, "width": options.width, "length": 2048, "rows": devices}
        print(json.dumps(measure({"topology": options.topology, "axes": axes, **sizes}, options.full)), flush=True)


if __name__ == "__main__":
    main()
