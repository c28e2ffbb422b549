"""The chat template that a model's folder holds, a Jinja program, rendered where it can do no harm.

It runs in a process of its own, in jinja2's sandbox, with bounds on memory and time (`mmjax.text.jinja_child`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.core.errors import ConfigError
from mmjax.text import jinja_child

SECONDS = 10.0
MAX_TEMPLATE = 1 << 18
# Code points that no text may hold (Unicode's noncharacters): within words that are not to be tokens, and for a medium.
BROKEN, MEDIUM = "\ufdd0", "\ufdd1"
MARKS = frozenset((BROKEN, MEDIUM, *jinja_child.GENERATED))
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")

Message = Mapping[str, Any]


class RenderError(Exception):
    """The template does not take these messages, or fails on them."""


class ModelTemplate:
    """The chat template of a model.

    Attributes:
      words: spellings of tokens that its tokenizer has added, longest first.
      bos: the spelling of its first token, or "".
      typed: whether it takes contents that are lists of typed parts; pictures: and among these pictures.
      fingerprint: changes when what it makes of messages may.
    """

    def __init__(self, path: str, picture_words: Sequence[str] = ()):
        """`path`: the folder of a model, or a file of it that holds the template; picture_words: those for pictures.

        Raises:
          ConfigError: no template there, or one that cannot be used.
        """
        self._path, self._picture_words = path, tuple(picture_words)
        folder, template = _find(Path(path).expanduser())
        config = _json_object(folder / "tokenizer_config.json")
        self._context = {name: _spelling(config.get(name)) for name in _SPECIAL if config.get(name)}
        self.bos = self._context.get("bos_token", "")
        self.words = tuple(sorted(_added(folder, config) | set(self._context.values()), key=lambda w: (-len(w), w)))
        if not self.words:
            raise ConfigError(
                f"{folder} has no tokenizer_config.json or tokenizer.json that names its added tokens, which the chat "
                "template's control words are"
            )
        self._template = template
        self._child: subprocess.Popen | None = None
        self._lock = threading.Lock()
        self._word = re.compile("|".join(map(re.escape, self.words)))
        self.fingerprint = hashlib.sha256(repr((template, self._context, self.words)).encode()).hexdigest()[:24]
        said = {"type": "text", "text": "word"}
        wrong = self._wrong("word")
        self.typed = not self._wrong([said])
        self.pictures = self.typed and not self._wrong([{"type": "image"}, said], self._picture_words)
        if wrong and not self.typed:
            raise ConfigError(f"the chat template of {path} cannot be used: {wrong}")

    def __reduce__(self):
        return type(self), (self._path, self._picture_words)

    def __del__(self):
        self._end()

    def render(self, requests: Sequence[tuple[Sequence[Message], bool]]) -> list[str]:
        """What it makes of each of some lists of messages, with the beginning of an answer where that is asked for.

        Raises:
          RenderError: it does not take them, or needs too much time or memory.
        """
        with self._lock:
            try:
                reply = self._ask(json.dumps(requests))
            except (OSError, ValueError):  # a TimeoutError is one
                self._end()
                reply = {"error": f"it took more than {SECONDS:g} seconds, or more memory than it may"}
        if "error" in reply:
            raise RenderError(reply["error"])
        return reply["texts"]

    def broken(self, text: str) -> str:
        """A text in which no spelling of an added token is whole any more; `mended` takes that back."""
        while self._word.search(text):
            text = self._word.sub(lambda found: f"{found[0][0]}{BROKEN}{found[0][1:]}", text)
        return text

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """A rendered text cut at its control words: (piece, whether it is one)."""
        cut = re.split(f"({self._word.pattern})", text)
        return [(piece, place % 2 == 1) for place, piece in enumerate(cut) if piece]

    def _wrong(self, content, pictures=("",)):
        """Why what a user says cannot be given in this form; "" where it can."""
        try:
            (text,) = self.render([([{"role": "user", "content": content}], False)])
        except RenderError as error:
            return str(error)
        written = "word" in text and "'type'" not in text and '"type"' not in text
        shown = any(word in text for word in pictures)
        return "" if written and shown else "what a user says is not in what it writes"

    def _ask(self, line):
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-I", jinja_child.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._write({"template": self._template, "context": self._context})
        self._child.stdin.write(line.encode() + b"\n")
        self._child.stdin.flush()
        answer = b""
        while not answer.endswith(b"\n"):
            if not select.select([self._child.stdout], [], [], SECONDS)[0]:
                raise TimeoutError
            part = os.read(self._child.stdout.fileno(), 1 << 20)
            if not part:
                raise OSError("it has ended")
            answer += part
        return json.loads(answer)

    def _write(self, value):
        self._child.stdin.write(json.dumps(value).encode() + b"\n")

    def _end(self):
        child, self._child = getattr(self, "_child", None), None
        if child is None:
            return
        child.kill()
        child.wait()
        child.stdout.close()
        # What it was not told any more; when the interpreter ends, contextlib may be gone already.
        try:  # noqa: SIM105
            child.stdin.close()
        except OSError:
            pass


def mended(text: str) -> str:
    """A text as it was before `ModelTemplate.broken`."""
    return text.replace(BROKEN, "")


@functools.lru_cache(maxsize=8)
def open_template(path: str, picture_words: Sequence[str]) -> ModelTemplate:
    """The template of a path, opened once in a process."""
    return ModelTemplate(path, picture_words)


def _find(path):
    """The model's folder, and its template."""
    if path.suffix == ".jinja":
        candidates = [path]
    elif path.is_dir():
        names = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
        candidates = [path / name for name in names]
    else:
        candidates = [path]
    for file in candidates:
        if not file.is_file():
            continue
        if file.suffix == ".jinja":
            template = _text(file)
        else:
            template = _json_object(file).get("chat_template")
            if isinstance(template, list):  # several by name
                named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
                template = named.get("default")
        if isinstance(template, str) and template:
            if len(template) > MAX_TEMPLATE:
                raise ConfigError(f"{file}: a chat template of {len(template)} characters, more than {MAX_TEMPLATE}")
            return file.parent, template
    raise ConfigError(
        f"chat_template: {path} holds none (chat_template.jinja, or chat_template in chat_template.json or "
        "tokenizer_config.json of a model's folder)"
    )


def _added(folder, config):
    """The spellings of the tokens that were added to the vocabulary."""
    entries = config.get("added_tokens_decoder")
    words = list(entries.values()) if isinstance(entries, dict) else []
    added = _json_object(folder / "tokenizer.json").get("added_tokens")
    words += added if isinstance(added, list) else []
    return {word for word in map(_spelling, words) if word.strip()}


def _spelling(token):
    """A token's spelling, given as such or as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _json_object(path):
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {str(error)[:200]}") from None
    return value if isinstance(value, dict) else {}


def _text(path):
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
