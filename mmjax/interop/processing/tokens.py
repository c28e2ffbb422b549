"""A checkpoint's `tokenizer.json` and `tokenizer_config.json`, read as transformers reads them for prompts.

Here text that spells a special token *is* that token, unlike in `mmjax.text.tokenizer`: the prompts of released
checkpoints are strings in which placeholders and templates are spelled out. Do not pass on text that a stranger wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.pre_tokenizers import Metaspace

from mmjax.core.errors import InputError
from mmjax.interop.processing.settings import read_json


@dataclasses.dataclass(frozen=True)
class PromptTokenizer:
    """`named`: how the files spell special tokens, by name (`bos_token`, `image_token`, ...)."""

    backend: tokenizers.Tokenizer
    named: Mapping[str, str]
    pads_left: bool
    where: str

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids; with `special`, those that the checkpoint puts around every text (mostly a BOS) are added."""
        return self.backend.encode(text, add_special_tokens=special).ids

    def spelling(self, name: str) -> str:
        """How a named special token is spelled.

        Raises:
          InputError: the files do not name it.
        """
        if name not in self.named:
            raise InputError(f"{self.where} has no {name}, which prompts of this checkpoint need; add it")
        return self.named[name]

    def id_of(self, token: str) -> int:
        """The id of a token by its spelling.

        Raises:
          InputError: it is not in the vocabulary.
        """
        number = self.backend.token_to_id(token)
        if number is None:
            raise InputError(f"{self.where} has no token {token!r}, which prompts of this checkpoint need")
        return number

    def ensure(self, tokens: Iterable[str], *, special: bool) -> None:
        """Appends to the vocabulary those of the tokens that it lacks."""
        missing = [token for token in tokens if self.backend.token_to_id(token) is None]
        self.backend.add_tokens([tokenizers.AddedToken(token, special=special, normalized=False) for token in missing])


def read_tokenizer(folder: str | Path) -> PromptTokenizer:
    """The tokenizer of a checkpoint folder; what tokenizer_config.json changes in tokenizer.json is changed.

    That is: special tokens that the vocabulary lacks are appended, and a tokenizer of the Llama class (IDEFICS) is
    built anew. What stands before and after a text is told by tokenizer.json alone, not by `add_bos_token`.

    Raises:
      InputError: there is no tokenizer.json, or it is broken.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{folder} has no tokenizer.json; where it has another kind of tokenizer, write one with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path} is not a tokenizer.json: {error}") from None
    backend.no_padding()
    backend.no_truncation()
    config = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
    named = _named(config)
    llama = _is_llama(backend, config, folder)
    side = config.get("padding_side") or ("left" if llama else "right")
    tokenizer = PromptTokenizer(backend, named, side == "left", str(folder))
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    listed = list(extra.values()) if isinstance(extra, Mapping) else extra
    tokenizer.ensure([*named.values(), *map(_content, listed)], special=True)
    if llama:
        _rebuild_llama(backend, config)
    return tokenizer


def _is_llama(backend, config, folder):
    """transformers 5 builds the tokenizers of this class anew, but for LLaVA's and those of bytes (Llama 3)."""
    if str(config.get("tokenizer_class")).removesuffix("Fast") != "LlamaTokenizer":
        return False
    as_stored = read_json(folder / "config.json").get("model_type") in ("llava", "llava_next")
    return not as_stored and "ByteLevel" not in str(backend.pre_tokenizer)


def _rebuild_llama(backend, config):
    """A space goes before the first word of a text, or before that after every special token where it is `legacy`."""
    prefix = "always" if config.get("legacy") else "first"
    scheme = "never" if config.get("add_prefix_space") is False else prefix
    backend.normalizer = None
    backend.pre_tokenizer = Metaspace(prepend_scheme=scheme, split=False)
    backend.model.unk_token = None  # what has neither a piece nor bytes is left out
    backend.model.fuse_unk = True
    backend.model.byte_fallback = True


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, Mapping) else str(token)


def _named(config):
    """Every `..._token` that is a token, in either of the two ways in which one is written."""
    extra = config.get("extra_special_tokens")
    tree = {**config, **(extra if isinstance(extra, Mapping) else {})}
    return {
        name: _content(token)
        for name, token in tree.items()
        if name.endswith("_token") and (isinstance(token, str) or (isinstance(token, Mapping) and "content" in token))
    }
