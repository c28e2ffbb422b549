"""Continue a prompt of pictures and text with a trained model.

mmjax generate --checkpoint DIR --shot a.png:"this is a dax." --image b.png --prompt "this is a"

Shots come first, each a picture with its text. Then the prompt: its pictures stand where it says <image>, or before it
if there is just one.
"""

from __future__ import annotations

import argparse
import json

from mmjax.core.errors import InputError
from mmjax.decoding.generate import generate
from mmjax.decoding.prompt import Prompt, open_picture
from mmjax.decoding.sampling import Sampling
from mmjax.training.load import find_run, load_run, read_config, usable_mesh


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax generate`."""
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a workdir, or one step of its checkpoints")
    parser.add_argument(
        "--shot", action="append", default=[], metavar="FILE:TEXT", help="a demonstration; may be repeated"
    )
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture of the prompt; may be repeated"
    )
    parser.add_argument("--prompt", default="", metavar="TEXT", help="the text to continue")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="write at most N tokens (default 64)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K most probable tokens")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the most probable of sum P")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws")
    parser.add_argument("--json", action="store_true", help="print text, tokens and log-probabilities as JSON")


def run(options: argparse.Namespace) -> int:
    """Generates; returns the exit code."""
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    if options.max_tokens < 1:
        raise InputError(f"--max-tokens must be 1 or more, not {options.max_tokens}")
    config = read_config(find_run(options.checkpoint)[0])
    size = config.data.image_size
    shots = []
    for shot in options.shot:
        name, colon, text = shot.partition(":")
        if not colon or not text:
            raise InputError(f'--shot must be FILE:TEXT, such as a.png:"this is a dax.", not {shot!r}')
        shots.append((open_picture(name, size=size), text))
    prompt = Prompt.from_text(options.prompt, [open_picture(name, size=size) for name in options.image]).after(shots)
    mesh = usable_mesh(config)
    loaded = load_run(options.checkpoint, mesh)
    [written] = generate(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        [prompt],
        max_tokens=options.max_tokens,
        sampling=sampling,
        mesh=mesh,
    )
    if options.json:
        record = {
            "prompt": str(prompt),
            "text": written.text,
            "tokens": written.tokens.tolist(),
            "log_probabilities": written.log_probabilities.tolist(),
            "ended_by": written.ended_by,
        }
        print(json.dumps(record))
    else:
        print(f"{options.prompt}{written.text}")
    return 0
