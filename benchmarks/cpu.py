"""Training steps on CPU beside PyTorch's: a decoder of 124M parameters and a ViT-B/16, in float32.

    python -m benchmarks.cpu [--rounds 5] [--threads 2] [--parts] [--quick]

Ours and torch's run in turns, each in a process of its own (benchmarks/alternate.py), with as many threads. Ours is
prepared as the command line prepares a run (memory that is freed is kept). Torch runs transformers' models of random
configurations with `sdpa` attention and, for the decoder, the fused AdamW; dropout is off on both sides. The weights
differ, their number does not. The ratio is that of torch's seconds to ours, round by round: above 1, ours is faster.
That of processor time (of all threads) is the steadier where other programs run.

--parts: the parts of a layer of the ViT, forward and backward, to see which of them binds.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.alternate import Work, compare, cpu_environment, serve, settle, spread, table


@dataclasses.dataclass(frozen=True)
class Shape:
    """The models and what they read."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 50_257
    rows: int = 4
    length: int = 512
    image: int = 224
    patch: int = 16
    pictures: int = 8

    @property
    def tokens(self) -> np.ndarray:
        """The rows of text."""
        return np.random.default_rng(0).integers(0, self.vocabulary, (self.rows, self.length), np.int32)

    @property
    def images(self) -> np.ndarray:
        """The pictures, normalised, channels last."""
        shape = (self.pictures, self.image, self.image, 3)
        return np.random.default_rng(0).standard_normal(shape, np.float32)


QUICK = Shape(32, 2, 2, 64, 2, 16, 32, 8, 2)
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.01


def our_decoder(shape: Shape) -> Work:
    """The decoder, the language loss and optax's AdamW."""
    import jax
    import jax.numpy as jnp
    import optax

    from mmjax.core.batch import Batch
    from mmjax.models.decoders.decoder import Decoder
    from mmjax.models.decoders.sizes import SIZES
    from mmjax.objectives.language import LanguageConfig, language_loss, position_weights

    config = dataclasses.replace(
        SIZES["gpt2"],
        vocab_size=shape.vocabulary,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        head_width=shape.width // shape.heads,
        mlp_width=4 * shape.width,
    )
    model, optimizer = Decoder(config), optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    tokens = shape.tokens
    places = np.broadcast_to(np.arange(shape.length, dtype=np.int32), tokens.shape)
    ones, weights = np.ones_like(tokens), np.ones(tokens.shape, np.float32)
    weights[:, -1] = 0.0
    batch = Batch(
        tokens=tokens,
        positions=places,
        segment_ids=ones,
        targets=np.pad(tokens[:, 1:], ((0, 0), (0, 1))),
        loss_weights=weights,
        media_index=0 * ones,
        images=np.zeros((shape.rows, 0, 1, 1, 3), np.uint8),
        image_mask=np.zeros((shape.rows, 0), bool),
        dataset_ids=np.zeros(shape.rows, np.int32),
    )
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(params):
        output = model.apply({"params": params}, batch.tokens, batch.positions, batch.segment_ids)
        return language_loss(output, batch, position_weights(batch, (1.0,)), LanguageConfig(), datasets=1)[0]

    def step(params, state):
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    params = _init(model, batch.tokens[:1], batch.positions[:1], batch.segment_ids[:1])
    compiled = jax.jit(step, donate_argnums=(0, 1))
    kept = [params, jax.jit(optimizer.init)(params)]

    def train():
        *kept[:], value = compiled(*kept)
        assert np.isfinite(value)

    return Work({"train": train}, _count(params))


def torch_decoder(shape: Shape) -> Work:
    """transformers' GPT2LMHeadModel and torch's fused AdamW."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="sdpa",
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    tokens = torch.from_numpy(shape.tokens).long()

    def train():
        optimizer.zero_grad(set_to_none=True)
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        assert np.isfinite(loss.item())

    return Work({"train": train}, sum(p.numel() for p in model.parameters()))


def our_vit(shape: Shape) -> Work:
    """Our ViT; backward from the mean square of the normed tokens to every parameter."""
    import jax
    import jax.numpy as jnp

    from mmjax.models.encoders.sizes import SIZES
    from mmjax.models.encoders.vit import ViT

    config = dataclasses.replace(
        SIZES["B/16"],
        image_size=shape.image,
        patch_size=shape.patch,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        mlp_width=4 * shape.width,
        class_position=True,
    )
    model, images = ViT(config), jnp.asarray(shape.images)
    params = _init(model, images[:1])

    def tokens(params, images):
        return model.apply({"params": params}, images).tokens

    forward = jax.jit(tokens)
    backward = jax.jit(jax.grad(lambda params, images: jnp.mean(jnp.square(tokens(params, images)))))
    return Work(
        {
            "forward": lambda: jax.block_until_ready(forward(params, images)),
            "forward and backward": lambda: jax.block_until_ready(backward(params, images)),
        },
        _count(params),
    )


def torch_vit(shape: Shape) -> Work:
    """transformers' ViTModel without its pooler, in the same way."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=shape.image,
        patch_size=shape.patch,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        layer_norm_eps=1e-6,
        attn_implementation="sdpa",
    )
    model = ViTModel(config, add_pooling_layer=False)
    images = torch.from_numpy(np.ascontiguousarray(shape.images.transpose(0, 3, 1, 2)))

    def forward():
        with torch.no_grad():
            model(images)

    def backward():
        model.zero_grad(set_to_none=True)
        model(images).last_hidden_state.square().mean().backward()

    return Work({"forward": forward, "forward and backward": backward}, sum(p.numel() for p in model.parameters()))


def _init(model, *inputs):
    import flax.linen as nn
    import jax

    return nn.unbox(jax.jit(model.init)(jax.random.key(0), *inputs))["params"]


def _count(params) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _our_parts(shape: Shape) -> Work:
    from benchmarks.cpu_parts import ours

    return ours(shape)


def _torch_parts(shape: Shape) -> Work:
    from benchmarks.cpu_parts import theirs

    return theirs(shape)


SIDES: dict[str, dict[str, Callable[[Shape], Work]]] = {
    "decoder": {"ours": our_decoder, "torch": torch_decoder},
    "vit": {"ours": our_vit, "torch": torch_vit},
    "parts": {"ours": _our_parts, "torch": _torch_parts},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table; with --side, is one of the two processes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (default 2)")
    parser.add_argument("--parts", action="store_true", help="the parts of a layer of the ViT instead")
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that it runs")
    parser.add_argument("--side", nargs=2, metavar=("WORK", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    shape = QUICK if options.quick else Shape()
    if options.side:
        serve(lambda: _prepared(*options.side, options.threads, shape))
    elif options.parts:
        print(_parts_table(shape, options), end="")
    else:
        print(_table(shape, options), end="")


def _prepared(work: str, side: str, threads: int, shape: Shape) -> Work:
    settle(side, threads)
    return SIDES[work][side](shape)


def _timed(work: str, steps: Sequence[str], options):
    base = [sys.executable, "-m", "benchmarks.cpu", "--threads", str(options.threads)]
    base += ["--quick"] if options.quick else []
    commands = {side: [*base, "--side", work, side] for side in ("ours", "torch")}
    return compare(commands, steps, rounds=options.rounds, environment=cpu_environment(options.threads))


def _table(shape: Shape, options) -> str:
    rows: list[list[str]] = []
    count = shape.rows * shape.length
    for timed, what, amount, unit in (
        (_timed("decoder", ["train"], options)["train"], "decoder, train step", count, "tokens"),
        *(
            (timed, f"ViT, {step}", shape.pictures, "images")
            for step, timed in _timed("vit", ["forward", "forward and backward"], options).items()
        ),
    ):
        ours, torch = (float(np.median(seconds)) for seconds in (timed.ours, timed.torch))
        rates = [f"{amount / seconds:.4g} {unit}/s" for seconds in (ours, torch)]
        rows.append([what, spread(timed.ours), spread(timed.torch), *rates])
        rows[-1] += [spread(timed.ratios, ".2f"), spread(timed.busy_ratios, ".2f")]
    return table(["", "ours, s", "torch, s", "ours", "torch", "ratio", "ratio of processor time"], rows)


def _parts_table(shape: Shape, options) -> str:
    from benchmarks.cpu_parts import flops_of

    flops, rows = flops_of(shape), []
    for name, timed in _timed("parts", list(flops), options).items():
        # The smallest: what the part takes where nothing else runs.
        best = [min(seconds) for seconds in (timed.ours, timed.torch)]
        rates = [f"{flops[name] / seconds / 1e9:.0f}" if flops[name] else "-" for seconds in best]
        rows.append([name, *(f"{1e3 * seconds:.3g}" for seconds in best), *rates, spread(timed.ratios, ".2f")])
    return table(["part", "ours, ms", "torch, ms", "ours, GFLOP/s", "torch, GFLOP/s", "ratio"], rows)


if __name__ == "__main__":
    main()
