"""`mmjax generate --draft`: a smaller model proposes what the model writes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from mmjax.cli.released import open_whole
from mmjax.core.errors import InputError
from mmjax.core.example import Media
from mmjax.core.folders import local_path
from mmjax.decoding.prompt import Prompt, open_picture
from mmjax.decoding.readers import RunReader
from mmjax.decoding.sampling import Sampling
from mmjax.decoding.speculative import Drafted, write_with_draft
from mmjax.evaluation.models.layouts import as_picture, lay_out_prompt
from mmjax.interop.calls.generation import sampling_of
from mmjax.interop.pretrained import load_pretrained
from mmjax.interop.reading import FolderPrompt, FolderReader
from mmjax.training.load import check_can_write, find_run, load_run, read_config, usable_mesh

MakePrompt = Callable[[Callable[[str], Media]], Prompt]


def write_drafted(
    options: argparse.Namespace,
    make_prompt: MakePrompt,
    sampling: Sampling,
    *,
    settings: Mapping[str, Any] | None,
) -> tuple[str, Drafted]:
    """The prompt for people to read, and what is written after it.

    make_prompt: a function that opens pictures -> the prompt. settings: of a folder, in place of `sampling`: those of
    the reference's `generate`, over those that the model's folder has.

    Raises:
      InputError: an option that does not go with a draft, or a draft with another tokenizer.
    """
    for name in ("beams", "samples", "choices"):
        if getattr(options, name) not in (None, 1):
            raise InputError(f"--draft writes one text, token by token: leave --{name} out")
    (prompt, target, kind), (_, draft, draft_kind) = (
        (_of_run if options.checkpoint else _of_folder)(path, make_prompt)
        for path in (options.checkpoint or options.model, options.draft)
    )
    if kind != draft_kind:
        raise InputError(f"the draft {options.draft} has another tokenizer than the model; take one with the same")
    if settings is not None:
        reader, laid_out = target
        length = len(reader.prepare(laid_out).tokens)
        one = {"num_beams": 1, "num_return_sequences": 1}
        sampling = sampling_of(local_path(options.model), {**settings, **one}, length=length)
    written = write_with_draft(
        target[0],
        draft[0],
        (target[1], draft[1]),
        max_tokens=options.max_tokens,
        sampling=sampling,
        stop=options.stop,
        width=options.draft_tokens,
    )
    return str(prompt), written


def _of_run(path, make_prompt) -> tuple[Prompt, tuple[RunReader, Prompt], Any]:
    """The prompt, the reader and what it reads, and what tells the tokenizer from others."""
    config = read_config(find_run(path)[0])
    check_can_write(config, "mmjax generate", families=("flamingo", "inline"))
    prompt = make_prompt(lambda name: open_picture(name, size=config.data.image_size))
    mesh = usable_mesh(config)
    loaded = load_run(path, mesh)
    most = max(1, len(prompt.media))
    layout = config.data.layout
    reader = RunReader(loaded.model, loaded.params, loaded.tokenizer, most_pictures=most, layout=layout, mesh=mesh)
    return prompt, (reader, prompt), loaded.tokenizer.fingerprint


def _of_folder(path, make_prompt) -> tuple[Prompt, tuple[FolderReader, FolderPrompt], Any]:
    prompt = make_prompt(open_whole)
    reader = FolderReader(load_pretrained(local_path(path)), most_pictures=max(1, len(prompt.media)))
    return prompt, (reader, _laid_out(reader, prompt)), reader.tokenizer.backend.get_vocab(with_added_tokens=True)


def _laid_out(reader: FolderReader, prompt: Prompt) -> FolderPrompt:
    if reader.processor is None:
        if prompt.media:
            raise InputError("a model has no processor for prompts with pictures; leave --image and --shot out")
        return FolderPrompt(str(prompt))
    text, media = lay_out_prompt(prompt, reader.processor.name, reader.processor.placeholder)
    return FolderPrompt(text, tuple(as_picture(medium) for medium in media))
