"""Prints the throughput of a mixed load by continuous batching, against batches that wait for their longest row.

    python -m benchmarks.scheduler [--requests 24] [--slots 8]

Prompts of 8 to 128 tokens, answers of 4 to 128, both evenly by their logarithm, all there at the beginning; a decoder
of 5.2M parameters with random weights, greedy. The batches take the requests in their order, as many as there are
slots; prompts are padded to the bucket of the longest. Both run the load twice, and the second time counts, when all
programs are compiled. Both must write the same tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.decoding.loop import Rules, open_writing, write_on
from mmjax.decoding.readers import Prepared
from mmjax.decoding.rows import PROMPT_BUCKET, bucket
from mmjax.decoding.sampling import Sampling, make_draw
from mmjax.decoding.scheduler import Request, Scheduler
from mmjax.decoding.writer import Decode, Opening, Writer, at_hand
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder
from mmjax.parallel.sharding import abstract_parameters

CONFIG = DecoderConfig(4096, 256, 4, 4, 64, 1024, kv_heads=4)
LENGTH = 256


class TokenReader:
    """Prompts that are tokens already."""

    joined: frozenset[int] = frozenset()
    mesh = None

    def __init__(self, config: DecoderConfig, seed: int = 0):
        model = Decoder(config)
        tokens = jnp.zeros((1, 2), jnp.int32)
        shapes, _ = abstract_parameters(model.init, jax.random.key(0), tokens, tokens, tokens)
        random = np.random.default_rng(seed)
        self.parameters = {
            path: jnp.asarray(float(path.endswith("scale")) + 0.05 * random.normal(size=shape.shape), jnp.float32)
            for path, shape in sorted(shapes.items())
        }
        self.writer = Writer(config, None, 0, Decode(model, "__call__"))
        self.writable = np.ones(config.vocab_size, bool)
        self.ends: dict[int, str] = {}

    def prepare(self, prompt: Sequence[int]) -> Prepared:
        return Prepared(np.asarray(prompt, np.int32), (), None)

    def open(self, prepared: Prepared, length: int) -> Opening:
        return open_batch([prepared.tokens], length)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(f"{token} " for token in tokens)


def open_batch(prompts: Sequence[np.ndarray], length: int) -> Opening:
    """Prompts as rows of `length` tokens."""
    counts = np.array([len(prompt) for prompt in prompts], np.int32)
    places = np.broadcast_to(np.arange(length, dtype=np.int32), (len(prompts), length))
    there = (places < counts[:, None]).astype(np.int32)
    tokens = np.zeros((len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return Opening(*map(jnp.asarray, (tokens, places * there, there)), {}, {}, counts, counts, tokens)


def mixed_load(count: int) -> list[Request]:
    """Prompts and lengths of answers, by a fixed seed."""
    random = np.random.default_rng(0)
    prompts, answers = (np.exp(random.uniform(np.log(low), np.log(128), count)).astype(int) for low in (8, 4))
    return [
        Request(random.integers(0, CONFIG.vocab_size, prompt), int(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def by_batches(reader: TokenReader, requests: Sequence[Request], slots: int) -> list[np.ndarray]:
    """The tokens of each request, written in batches."""
    written, near = [], at_hand(reader.writer, reader.parameters)
    for start in range(0, len(requests), slots):
        batch = requests[start : start + slots]
        empty = slots - len(batch)
        prompts = [one.prompt for one in batch] + [batch[0].prompt] * empty
        limits = np.array([one.max_tokens for one in batch] + [0] * empty, np.int32)
        length = bucket(max(map(len, prompts)), PROMPT_BUCKET)
        rules = Rules(reader.writable, np.zeros(len(reader.writable), bool), limits, make_draw(Sampling(), slots))
        opening = open_batch(prompts, length)
        writing = open_writing(reader.writer, reader.parameters, opening, rules, room=LENGTH - length)
        texts = write_on(reader.writer, near, writing, rules, steps=int(limits.max())).read()
        written += [texts.tokens[row, : one.max_tokens] for row, one in enumerate(batch)]
    return written


def by_scheduler(reader: TokenReader, requests: Sequence[Request], slots: int) -> list[np.ndarray]:
    """The tokens of each request, written in slots."""
    scheduler = Scheduler(reader, slots=slots, length=LENGTH)
    replies = [scheduler.submit(request) for request in requests]
    scheduler.run()
    return [reply.result().tokens for reply in replies]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--slots", type=int, default=8)
    options = parser.parse_args()
    reader, requests = TokenReader(CONFIG), mixed_load(options.requests)
    tokens = sum(request.max_tokens for request in requests)
    found, seconds = {}, {}
    for name, write in (("batches", by_batches), ("slots", by_scheduler)):
        for _ in range(2):
            start = time.perf_counter()
            found[name] = write(reader, requests, options.slots)
            seconds[name] = time.perf_counter() - start
    same = sum(np.array_equal(*pair) for pair in zip(found["batches"], found["slots"], strict=True))
    print(f"{len(requests)} requests, {options.slots} rows at a time, {tokens} tokens; {same} answers are the same\n")
    print("| | seconds | tokens/s |")
    print("|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.2f} | {tokens / value:.0f} |")
    print(f"\n{seconds['batches'] / seconds['slots']:.2f} times as fast")


if __name__ == "__main__":
    main()
