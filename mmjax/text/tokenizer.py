"""Text <-> token ids: bytes, any `tokenizer.json`, or a SentencePiece model.

Text that spells a special token ("<image>") is never taken for one: special tokens are placed by the prompt
alone, from its segments.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

import sentencepiece
import tokenizers

from mmjax.core.config import nearest
from mmjax.core.errors import ConfigError
from mmjax.text.chat import CONTROL_WORDS

# Appended to a serialized ModelProto: protobuf merges it into the model's normalizer_spec (field 3), where it switches
# add_dummy_prefix (field 3) and remove_extra_whitespaces (field 4) off.
_NO_DUMMY_PREFIX = bytes([0x1A, 4, 0x18, 0, 0x20, 0])

SPECIAL_NAMES = ("pad", "bos", "eos", "image", "end_of_chunk")

_SPELLINGS = {
    "pad": ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "[SEP]"),
    "image": ("<image>", "<|image|>", "<|image_pad|>", "<image_soft_token>"),
    "end_of_chunk": ("<|endofchunk|>", "<end_of_chunk>"),
}

# What vocabularies, and chat templates, write for a picture.
PICTURE_WORDS = _SPELLINGS["image"]


class Tokenizer(Protocol):
    """What the rest of the house asks of a tokenizer.

    `special` gives the ids of `SPECIAL_NAMES`; `vocab_size` counts them too. `encode` adds no special token;
    `decode` leaves special tokens out. `words` gives the ids of control words, such as "<|im_start|>", that are tokens
    of their own; `control` the id of one, and raises ConfigError where there is none. `byte_pieces` are single
    bytes, for what has no piece: a run of them is decoded as a whole. `fingerprint` changes when the tokens of some
    text may.
    """

    fingerprint: str
    vocab_size: int
    special: Mapping[str, int]
    words: Mapping[str, int]
    byte_pieces: frozenset[int]

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def control(self, spelling: str) -> int: ...


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """`path`: the file of a `tokenizer_json` or `sentencepiece` tokenizer.

    `special` says how the vocabulary spells a special token, e.g. `{"image": "<|image|>"}`; the usual spellings
    are found without it, and what a vocabulary lacks is appended after it.
    """

    kind: Literal["byte", "tokenizer_json", "sentencepiece"] = "byte"
    path: str = ""
    special: Mapping[str, str] = dataclasses.field(default_factory=dict)


def make_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Raises ConfigError for a missing or unreadable file and for spellings that are not in the vocabulary."""
    for name in config.special:
        if name not in SPECIAL_NAMES:
            raise ConfigError(f"tokenizer.special.{name} is not a special token{nearest(name, SPECIAL_NAMES)}")
    if config.kind == "byte":
        if config.path or config.special:
            raise ConfigError("the byte tokenizer has no file and fixed special tokens: leave path and special empty")
        return ByteTokenizer()
    if not os.path.isfile(config.path):
        raise ConfigError(f"tokenizer.path: there is no file {config.path!r}")
    kinds = {"tokenizer_json": HuggingFaceTokenizer, "sentencepiece": SentencePieceTokenizer}
    return kinds[config.kind](config.path, config.special)


class ByteTokenizer:
    """UTF-8 bytes: ids 0-4 are the special tokens, byte b is 5 + b. Bytes that are not UTF-8 decode to U+FFFD."""

    def __init__(self):
        self.fingerprint = "bytes"
        self.special = {name: number for number, name in enumerate(SPECIAL_NAMES)}
        self.vocab_size = len(SPECIAL_NAMES) + 256
        self.words: dict[str, int] = {}
        self.byte_pieces: frozenset[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        return [byte + 5 for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(number - 5 for number in map(int, ids) if 5 <= number < 261).decode("utf-8", errors="replace")

    def control(self, spelling: str) -> int:
        raise ConfigError(
            f"the byte tokenizer has no control word {spelling!r}: take a chat template without, or another tokenizer"
        )


class HuggingFaceTokenizer:
    """Any `tokenizer.json`, by the `tokenizers` library; its own templates, padding and truncation are switched off."""

    def __init__(self, path: str, special: Mapping[str, str] | None = None):
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"{path} is not a tokenizer.json: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        size = max(vocabulary.values()) + 1
        self.special, self.vocab_size = _special_ids(vocabulary, size, special or {}, path)
        # Tokens added without the special flag are matched in ordinary text all the same.
        self.words = {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items()}
        self.byte_pieces = byte_pieces(vocabulary)
        self._cut = _cutter(self.words)
        self._base_size = size
        self._made_of = (path, dict(special or {}))
        self.fingerprint = _fingerprint(path, self.special)

    def __reduce__(self):
        return type(self), self._made_of

    def encode(self, text: str) -> list[int]:
        return list(self._encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        hidden = set(self.special.values())
        kept = [number for number in map(int, ids) if number < self._base_size and number not in hidden]
        return self._tokenizer.decode(kept, skip_special_tokens=True)

    def control(self, spelling: str) -> int:
        return _control_id(spelling, self.words, self._made_of[0])

    @functools.lru_cache(maxsize=4096)  # noqa: B019  (tokenizers live as long as the program)
    def _encode(self, text: str) -> tuple[int, ...]:
        pieces = self._cut(text)
        return tuple(i for piece in pieces for i in self._tokenizer.encode(piece, add_special_tokens=False).ids)


class SentencePieceTokenizer:
    """A SentencePiece `.model`. No space is added before a text: a segment means what it spells."""

    def __init__(self, path: str, special: Mapping[str, str] | None = None):
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.load_from_serialized_proto(pathlib.Path(path).read_bytes() + _NO_DUMMY_PREFIX)
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"{path} is not a SentencePiece model: {error}") from None
        size = self._model.get_piece_size()
        vocabulary = {self._model.id_to_piece(number): number for number in range(size)}
        self.special, self.vocab_size = _special_ids(vocabulary, size, special or {}, path)
        self.words = {
            piece: number
            for piece, number in vocabulary.items()
            if piece in CONTROL_WORDS or self._model.is_control(number)
        }
        self.byte_pieces = frozenset(number for number in range(size) if self._model.is_byte(number))
        # Pieces of the kind "control" are never made from a text, those that the model's maker defined are.
        named = (self._model.id_to_piece(number) for number in self.special.values() if number < size)
        self._cut = _cutter((*named, *(CONTROL_WORDS & vocabulary.keys())))
        self._base_size = size
        self._made_of = (path, dict(special or {}))
        self.fingerprint = _fingerprint(path, self.special)

    def __reduce__(self):
        return type(self), self._made_of

    def encode(self, text: str) -> list[int]:
        return list(self._encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        hidden = set(self.special.values())
        kept = [number for number in map(int, ids) if number < self._base_size and number not in hidden]
        return self._model.decode(kept)

    def control(self, spelling: str) -> int:
        return _control_id(spelling, self.words, self._made_of[0])

    @functools.lru_cache(maxsize=4096)  # noqa: B019  (tokenizers live as long as the program)
    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(number for piece in self._cut(text) for number in self._model.encode(piece))


def byte_pieces(vocabulary: Mapping[str, int]) -> frozenset[int]:
    """The ids of <0x00> to <0xFF>, as far as a vocabulary has them."""
    spelled = (f"<0x{byte:02X}>" for byte in range(256))
    return frozenset(vocabulary[piece] for piece in spelled if piece in vocabulary)


def _control_id(spelling: str, words: Mapping[str, int], path: str) -> int:
    if spelling not in words:
        raise ConfigError(
            f"the chat template needs {spelling!r} as a token of its own, and {path} has none{nearest(spelling, words)}"
        )
    return words[spelling]


def _fingerprint(path: str, special: Mapping[str, int]) -> str:
    content = pathlib.Path(path).read_bytes()
    return hashlib.sha256(content + repr(sorted(special.items())).encode()).hexdigest()


def _special_ids(
    vocabulary: Mapping[str, int], size: int, spelled: Mapping[str, str], path: str
) -> tuple[dict[str, int], int]:
    """Ids of the special tokens, and the vocabulary's size with those appended that it lacks."""
    ids = {}
    for name in SPECIAL_NAMES:
        if name in spelled:
            if spelled[name] not in vocabulary:
                raise ConfigError(f"tokenizer.special.{name}: {path} has no token {spelled[name]!r}")
            ids[name] = vocabulary[spelled[name]]
            continue
        found = [vocabulary[spelling] for spelling in _SPELLINGS[name] if spelling in vocabulary]
        if found:
            ids[name] = found[0]
        else:
            ids[name], size = size, size + 1
    return ids, size


def _cutter(spellings: Iterable[str]):
    """A function that cuts a text inside each spelling of a token, so that the spelling stays ordinary text."""
    spellings = sorted({spelling for spelling in spellings if len(spelling) > 1}, key=len, reverse=True)
    if not spellings:
        return lambda text: (text,)
    pattern = re.compile("|".join(map(re.escape, spellings)))

    def cut(text: str) -> Sequence[str]:
        starts = [0, *(match.start() + 1 for match in pattern.finditer(text)), len(text)]
        return [text[a:b] for a, b in itertools.pairwise(starts) if a < b]

    return cut
