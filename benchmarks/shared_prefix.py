"""A few-shot evaluation whose demonstrations are read once, beside one in which every query reads them.

    python -m benchmarks.shared_prefix [--shots 32] [--queries 200] [--rounds 2] [--width 192] [--layers 4]

Every query is a picture and a question after the same demonstrations; two answers are rated by their likelihood
(`decoding.scoring.score_continuations`). With and without sharing run in turns in one process. The first round of each
compiles; its seconds are printed apart. Each different picture is encoded once in both. The ratio is that of the
seconds without to those with, round by round; that of processor time is the steadier where other programs run. The
model is a random Flamingo in float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.alternate import spread, table
from mmjax.core.batch import Batch
from mmjax.core.example import Text
from mmjax.decoding.prompt import Prompt, as_media
from mmjax.decoding.scoring import Continuations, score_continuations
from mmjax.layers.attention import AttentionConfig
from mmjax.models.connectors.resampler import ResamplerConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import Flamingo, FlamingoConfig
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.parallel.host import keep_freed_memory
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parallel.sharding import init_sharded
from mmjax.text.tokenizer import ByteTokenizer

SIDE, LATENTS = 32, 8


def make_model(width: int, layers: int) -> tuple[Flamingo, dict[str, jax.Array]]:
    """A random Flamingo whose pictures matter from the start."""
    heads = width // 32
    config = FlamingoConfig(
        ViTConfig(SIDE, 8, width, 2, heads, 4 * width),
        ResamplerConfig(width, 1, heads, 32, LATENTS, 4 * width),
        DecoderConfig(ByteTokenizer().vocab_size, width, layers, heads, 32, 4 * width),
        GatedCrossAttentionConfig(AttentionConfig(heads, 32), 4 * width, every=2, gate_init=0.5),
    )
    model = Flamingo(config)
    ints = jnp.zeros((1, 2), jnp.int32)
    batch = Batch(
        tokens=ints,
        positions=ints,
        segment_ids=ints,
        targets=ints,
        loss_weights=ints.astype(jnp.float32),
        media_index=ints,
        images=jnp.zeros((1, 1, SIDE, SIDE, 3), jnp.uint8),
        image_mask=jnp.ones((1, 1), bool),
        dataset_ids=jnp.zeros(1, jnp.int32),
    )
    return model, init_sharded(model.init, make_mesh(MeshConfig(), jax.devices()[:1]), jax.random.key(0), batch)


def make_prompts(shots: int, queries: int) -> list[Prompt]:
    """Queries of unequal lengths after the same demonstrations."""
    random = np.random.default_rng(0)

    def picture():
        return as_media(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8))

    def words(count):
        return "".join(random.choice(list("abcdefgh "), count))

    demonstrations = [(picture(), words(12)) for _ in range(shots)]
    return [Prompt((picture(), Text(words(6 + number % 7)))).after(demonstrations) for number in range(queries)]


def differ(one: Sequence[Continuations], other: Sequence[Continuations]) -> float:
    """The largest difference of a log-likelihood."""
    pairs = zip(one, other, strict=True)
    return max(float(np.abs(left.log_likelihoods - right.log_likelihoods).max()) for left, right in pairs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shared_prefix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shots", type=int, default=32, help="demonstrations (default 32)")
    parser.add_argument("--queries", type=int, default=200, help="queries (default 200)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds that count, after one that does not (default 2)")
    parser.add_argument("--width", type=int, default=192, help="of all parts, a multiple of 32 (default 192)")
    parser.add_argument("--layers", type=int, default=4, help="of the decoder (default 4)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few queries, to see that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.shots, options.queries, options.rounds, options.width, options.layers = 4, 6, 1, 32, 2
    keep_freed_memory()
    model, params = make_model(options.width, options.layers)
    prompts = make_prompts(options.shots, options.queries)
    answers = [[Text("dax", end_of_chunk=True), Text("wug", end_of_chunk=True)]] * len(prompts)
    wall: dict[bool, list[float]] = {True: [], False: []}
    busy: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(1 + options.rounds):
        found = {}
        for share in (True, False):
            began, used = time.perf_counter(), time.process_time()
            found[share] = score_continuations(model, params, ByteTokenizer(), prompts, answers, share=share)
            wall[share].append(time.perf_counter() - began)
            busy[share].append(time.process_time() - used)
    rows = [
        [
            name,
            f"{seconds[True][0]:.3g}",
            f"{seconds[False][0]:.3g}",
            spread(seconds[True][1:]),
            spread(seconds[False][1:]),
            spread([apart / together for together, apart in zip(seconds[True][1:], seconds[False][1:], strict=True)]),
        ]
        for name, seconds in (("seconds", wall), ("CPU seconds", busy))
    ]
    first = [f"{name}, first round" for name in ("shared", "apart")]
    print(f"width {options.width}, {options.layers} layers; {options.shots} shots, {options.queries} queries")
    print(f"scores differ by {differ(*found.values()):.1e} at most\n")
    print(table(["", *first, "shared", "apart", "ratio"], rows), end="")


if __name__ == "__main__":
    main()
