"""Greedy decoding on CPU beside transformers' `generate`: a GPT-2 of 124M parameters, the same random weights in both.

    python -m benchmarks.decode [--rounds 3] [--threads 2] [--quick]

Prompts of 64 tokens are read and 64 tokens written, one text at a time and eight. Ours is `begin` and `go_on` of a
`Writer` in one program; torch is `generate` with its cache and its default attention. They run in turns, each in a
process of its own (benchmarks/alternate.py), with as many threads; the first round compiles and does not count. The
tokens that both write are compared: a rounding may end that early, and is printed. The ratio is that of torch's seconds
to ours, round by round: above 1, ours is faster. That of processor time (of all threads) is the steadier where other
programs run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.alternate import Work, compare, cpu_environment, serve, settle, spread, table


@dataclasses.dataclass(frozen=True)
class Shape:
    """The model, the prompts, and what is written after them."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 50_257
    prompt: int = 64
    new: int = 64
    batches: tuple[int, ...] = (1, 8)

    def prompts(self, rows: int) -> np.ndarray:
        """Rows of random tokens."""
        return np.random.default_rng(0).integers(0, self.vocabulary, (rows, self.prompt), np.int32)


QUICK = Shape(width=32, layers=2, heads=2, vocabulary=64, prompt=8, new=4)


def make_checkpoint(shape: Shape, folder: Path) -> None:
    """A random model as transformers stores it. Its embeddings are wide apart, so that it does not repeat a token."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)


def ours(shape: Shape, folder: Path) -> Work:
    """`begin`, and a scan of `go_on`."""
    import jax
    import jax.numpy as jnp

    from mmjax.decoding.writer import Decode, Opening, Writer, at_hand, begin, go_on
    from mmjax.interop.engine import load

    pretrained = load(folder)
    writer = Writer(pretrained.config, None, 0, Decode(pretrained.model(), "__call__"))

    # Made once for a model, and kept with it.
    near = at_hand(writer, pretrained.parameters)

    @jax.jit
    def write(parameters, near, tokens):
        rows = len(tokens)
        places = jnp.broadcast_to(jnp.arange(shape.prompt, dtype=jnp.int32)[None], tokens.shape)
        behind = jnp.full((rows,), shape.prompt, jnp.int32)
        opening = Opening(tokens, places, jnp.ones_like(tokens), {}, {}, behind, behind, tokens)
        output = begin(writer, parameters, opening, spare=shape.new)

        def step(state, number):
            cache, token = state
            output = go_on(writer, near, cache, opening, token[:, None], jnp.ones((rows, 1), bool), number)
            return (output.cache, chosen(output)), token

        def chosen(output):
            return jnp.argmax(output.logits()[:, -1], axis=-1).astype(jnp.int32)

        steps = jnp.arange(shape.new - 1, dtype=jnp.int32)
        (_, last), tokens = jax.lax.scan(step, (output.cache, chosen(output)), steps)
        return jnp.concatenate([tokens, last[None]]).T

    def run(rows):
        np.save(folder / f"ours-{rows}.npy", np.asarray(write(pretrained.parameters, near, shape.prompts(rows))))

    count = sum(leaf.size for leaf in jax.tree.leaves(pretrained.parameters))
    return Work({f"batch {rows}": functools.partial(run, rows) for rows in shape.batches}, count)


def torch(shape: Shape, folder: Path) -> Work:
    """transformers' `generate`, greedy."""
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder).eval()

    def run(rows):
        tokens = torch.from_numpy(shape.prompts(rows)).long()
        with torch.no_grad():
            written = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                use_cache=True,
                min_new_tokens=shape.new,
                max_new_tokens=shape.new,
            )
        np.save(folder / f"torch-{rows}.npy", written[:, shape.prompt :].numpy())

    count = sum(parameter.numel() for parameter in model.parameters())
    return Work({f"batch {rows}": functools.partial(run, rows) for rows in shape.batches}, count)


SIDES: dict[str, Callable[[Shape, Path], Work]] = {"ours": ours, "torch": torch}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table; with --side, is one of the two processes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count, after one that does not (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (default 2)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    shape = QUICK if options.quick else Shape()
    if options.side:
        side, folder = options.side
        serve(lambda: _prepared(side, options.threads, shape, Path(folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(shape, Path(folder))
        print(_table(shape, Path(folder), options), end="")


def _prepared(side: str, threads: int, shape: Shape, folder: Path) -> Work:
    settle(side, threads)
    return SIDES[side](shape, folder)


def _table(shape: Shape, folder: Path, options) -> str:
    base = [sys.executable, "-m", "benchmarks.decode", "--threads", str(options.threads)]
    base += ["--quick"] if options.quick else []
    commands = {side: [*base, "--side", side, str(folder)] for side in SIDES}
    environment = cpu_environment(options.threads)
    steps = [f"batch {rows}" for rows in shape.batches]
    found, rows = compare(commands, steps, rounds=options.rounds, environment=environment), []
    for count, (step, timed) in zip(shape.batches, found.items(), strict=True):
        speeds = [count * shape.new / float(np.median(seconds)) for seconds in (timed.ours, timed.torch)]
        busy = [float(np.median(seconds)) for seconds in (timed.ours_busy, timed.torch_busy)]
        mine, theirs = (np.load(folder / f"{side}-{count}.npy") for side in SIDES)
        same = np.cumprod(mine == theirs, axis=1).sum()
        rows.append([step, *(f"{speed:.4g}" for speed in speeds), spread(timed.ratios, ".2f")])
        rows[-1] += [
            *(f"{seconds:.3g}" for seconds in busy),
            spread(timed.busy_ratios, ".2f"),
            f"{same} of {mine.size}",
        ]
    heads = ["", "ours, tokens/s", "torch, tokens/s", "ratio", "ours, CPU s", "torch, CPU s", "ratio of CPU s"]
    return table([*heads, "tokens alike"], rows)


if __name__ == "__main__":
    main()
