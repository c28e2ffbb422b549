"""Greedy generation as the reference does it: the prompt at once into the cache, then a token a step."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Int
from mmjax.core.errors import InputError
from mmjax.interop.calls.adapters import Prompt, Writer, logits_of
from mmjax.models.decoders.decoder import empty_cache

_UNDERSTOOD = {
    *("max_new_tokens", "max_length", "min_new_tokens", "do_sample", "num_beams", "eos_token_id", "pad_token_id"),
    # Greedy decoding is the same with them.
    *("use_cache", "temperature", "top_k", "top_p", "return_dict_in_generate", "output_scores", "output_logits"),
}


def greedy(
    writer: Writer, parameters: dict[str, Array], prompt: Prompt, settings: Mapping[str, Any]
) -> Int[np.ndarray, "B T"]:
    """Prompt and what is written after it, rows that have ended filled with the padding token.

    settings: those of the reference's `generate`, over those of the checkpoint (see `generation_settings`).

    Raises:
      InputError: a setting that asks for something other than greedy decoding.
    """
    steps = _steps(settings, prompt.sequences.shape[1])
    last, table = int(np.max(prompt.next_position)) + steps - 2, writer.decoder.max_length
    if writer.decoder.positions == "learned" and last >= table:
        raise InputError(
            f"the model has {table} positions, and {steps} tokens after this prompt would need {last + 1}; write fewer"
        )
    ends = settings.get("eos_token_id")
    stops = [] if ends is None else list(np.atleast_1d(ends))
    pad = settings.get("pad_token_id")
    if pad is None:
        pad = stops[0] if stops else 0
    held_back = min(settings.get("min_new_tokens") or 0, steps)
    ending = jnp.asarray(np.isin(np.arange(writer.decoder.vocab_size), stops))
    written = np.asarray(_write(writer, steps, parameters, prompt, ending, held_back))
    ended = np.isin(written, stops)
    after = np.cumsum(ended, axis=1) - ended > 0
    written = np.where(after, pad, written)
    lengths = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, steps)
    return np.concatenate([np.asarray(prompt.sequences), written[:, : lengths.max()]], axis=1)


def generation_settings(folder: Path, kw: Mapping[str, Any]) -> dict[str, Any]:
    """What the reference generates with: generation_config.json, else the ids that config.json names; then `kw`."""
    settings: dict[str, Any] = {}
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.exists():
            read = json.loads(path.read_text())
            text = read.get("text_config") or read.get("lang") or {}
            for key in ("eos_token_id", "pad_token_id"):
                value = read.get(key, text.get(key))
                if value is not None:
                    settings.setdefault(key, value)
            break
    return settings | {key: value for key, value in kw.items() if value is not None or key == "eos_token_id"}


def _steps(settings: Mapping[str, Any], length: int) -> int:
    odd = [key for key in settings if key not in _UNDERSTOOD]
    if odd or settings.get("do_sample") or settings.get("num_beams", 1) != 1:
        shown = {key: settings[key] for key in (*odd, "do_sample", "num_beams") if key in settings}
        raise InputError(f"only greedy decoding is compared, not generate with {shown}")
    steps = settings.get("max_new_tokens")
    if steps is None:
        steps = settings.get("max_length", 20) - length
    if steps < 1:
        raise InputError(f"generate must write at least one token, not {steps}; give max_new_tokens")
    return steps


@functools.partial(jax.jit, static_argnames=("writer", "steps"))
def _write(writer: Writer, steps: int, parameters, prompt: Prompt, ending, held_back):
    """Tokens [B, steps]; those that are `ending` only come after `held_back` others."""
    batch, length = prompt.tokens.shape
    cache = empty_cache(
        writer.decoder, writer.cross, batch=batch, length=length + steps, media_length=writer.media_length
    )
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
    output = writer.decode(
        parameters, prompt.tokens, prompt.positions, prompt.segments, cache=cache, write_index=places, **prompt.first
    )
    last = jnp.max(jnp.where(prompt.segments == 1, places, 0), axis=1)
    hidden = output.hidden[jnp.arange(batch), last][:, None]
    chosen = _chosen(output.replace(hidden=hidden), ending & (held_back > 0))
    ones = jnp.ones((batch, 1), jnp.int32)

    def step(state, number):
        cache, chosen = state
        output = writer.decode(
            parameters,
            chosen[:, None],
            prompt.next_position[:, None] + number,
            ones,
            cache=cache,
            write_index=ones * (length + number),
            **prompt.later,
        )
        return (output.cache, _chosen(output, ending & (number + 1 < held_back))), chosen

    _, written = jax.lax.scan(step, (output.cache, chosen), jnp.arange(steps, dtype=jnp.int32))
    return written.T


def _chosen(output, withheld):
    scores = jnp.where(withheld[None], -jnp.inf, logits_of(output)[:, -1])
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)
