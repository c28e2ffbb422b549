"""Talk to a trained model, or to a released one, in the terminal.

mmjax chat --checkpoint DIR
mmjax chat --model DIR --system "You answer in one sentence." --temperature 0.7

Pictures are shown by /image FILE, or by <FILE> within a text, where they are to stand. /help lists the commands. Ctrl-C
stops an answer, Ctrl-D ends. Without a terminal, each line of the input is a turn. Answers go to the standard output,
all else to the standard error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import signal
import sys
import time
from pathlib import Path

from mmjax.core.errors import InputError, MmjaxError
from mmjax.core.example import Media
from mmjax.core.folders import local_path
from mmjax.data.sources.conversation import Message
from mmjax.data.sources.options import ConversationOptions
from mmjax.decoding.conversation import Conversation
from mmjax.decoding.dialogue import Dialogue, RunDialogue
from mmjax.decoding.readers import RunReader
from mmjax.decoding.sampling import Sampling
from mmjax.decoding.streaming import TextStream
from mmjax.interop.dialogue import FolderDialogue
from mmjax.interop.pretrained import load_pretrained
from mmjax.interop.reading import FolderReader
from mmjax.text.chat import SPELLINGS, Spelling
from mmjax.training.load import check_can_write, find_run, load_run, read_config, usable_mesh

HELP = """/image FILE   show a picture with your next words; or write <FILE> where it is to stand in them
/undo         take back your last words, and the answer
/reset        begin anew
/save FILE    write the conversation as a line of JSON, which `chat` sources of training data read
/help         this
Ctrl-C stops an answer, Ctrl-D ends"""

# Positions of a conversation, where the model has no limit of its own.
POSITIONS = 4096
_FILE = re.compile(r"<([^<>\n]+\.(?:png|jpe?g|webp|gif|bmp|tiff?|ppm))>", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax chat`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="PATH", help="a workdir, or one step of its checkpoints")
    source.add_argument("--model", metavar="DIR", help="a folder in the layout of transformers")
    parser.add_argument("--system", metavar="TEXT", help="what the conversation begins with")
    parser.add_argument(
        "--template",
        choices=sorted(SPELLINGS),
        help="how turns are spelled (by default as the folder says, or as the run's chat data; else without any words)",
    )
    parser.add_argument("--positions", type=int, metavar="N", help="of the conversation (default the model's, or 4096)")
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="at most N in a conversation (default 8)")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="of an answer (default 512)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K most probable tokens")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the most probable of sum P")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="draw from those P times the first")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1 repeats less")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated")


def run(options: argparse.Namespace) -> int:
    """Talks until the input ends; returns the exit code."""
    for name in ("max_tokens", "pictures", "positions"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, not {value}")
    fields = {field.name for field in dataclasses.fields(Sampling)}
    sampling = Sampling(**{name: value for name, value in vars(options).items() if name in fields})
    dialogue, limit = (_of_run if options.checkpoint else _of_folder)(options)
    chat = Chat(
        dialogue,
        positions=options.positions or limit or POSITIONS,
        system=options.system,
        sampling=sampling,
        max_tokens=options.max_tokens,
        stop=tuple(options.stop),
    )
    _tell(f"{options.checkpoint or options.model}: {chat.positions} positions; /help lists the commands, Ctrl-D ends")
    for line in _lines():
        chat.take(line)
    return 0


class Chat:
    """A conversation and what is typed into it."""

    def __init__(
        self,
        dialogue: Dialogue,
        *,
        positions: int,
        system: str | None,
        sampling: Sampling,
        max_tokens: int,
        stop: tuple[str, ...],
    ):
        self._dialogue, self._sampling, self._max_tokens, self._stop = dialogue, sampling, max_tokens, stop
        self._conversation = Conversation(dialogue.reader, length=positions)
        self._begun = [] if system is None else [Message("system", (system,))]
        self._messages = list(self._begun)
        # Pictures that are shown with the next words; and where all of them came from, for /save.
        self._shown: list[Media] = []
        self._sources: dict[int, str] = {}

    @property
    def positions(self) -> int:
        """Of the whole conversation."""
        return self._conversation.length

    def take(self, line: str) -> None:
        """A line that was typed: a command, or what the user says. What is wrong with it is told, and that is all."""
        line = line.strip()
        word, _, rest = line.partition(" ")
        try:
            if word in _COMMANDS:
                _COMMANDS[word](self, rest.strip())
            elif re.fullmatch(r"/[a-z]+", word):
                raise InputError(f"there is no command {word}; /help lists them")
            elif word:
                self._say(line)
        except MmjaxError as error:
            _tell(f"error: {error}")

    def _say(self, line):
        parts: list[str | Media] = []
        for number, piece in enumerate(_FILE.split(line)):
            parts += [self._picture(piece)] if number % 2 else [piece] if piece else []
        turn = Message("user", (*self._shown, *parts))
        with _Interrupted() as interrupted:
            clock = time.monotonic()
            prepared = self._dialogue.prepare([*self._messages, turn])
            try:
                read = self._conversation.read(prepared)
            except InputError as error:
                if len(self._messages) == len(self._begun):
                    raise
                raise InputError(f"{error}; /undo or /reset makes room") from None
            if interrupted.told:
                _tell("[stopped before an answer; your words are not kept]")
                return
            self._messages.append(turn)
            self._shown = []
            self._answer(read, time.monotonic() - clock, interrupted)

    def _answer(self, read, seconds, interrupted):
        """Streams the answer, whatever of it comes before it is stopped, and tells how fast it was."""
        reader = self._dialogue.reader
        texts = TextStream(reader.decode, stops=self._stop, joined=reader.joined)
        pieces, count, ends, clock = [], 0, None, time.monotonic()
        tokens = self._conversation.write(self._sampling, self._max_tokens)
        for chosen in tokens:
            count, ends = count + 1, chosen.ends
            pieces.append(_print("" if ends else texts.push(chosen.token)))
            if texts.stop is not None or interrupted.told:
                break
        tokens.close()
        pieces.append(_print(texts.end()))
        print(flush=True)
        said = self._dialogue.said("".join(pieces))
        self._messages.append(Message("assistant", (said,)))
        rate = count / max(time.monotonic() - clock, 1e-9)
        held = f"{self._conversation.held} of {self.positions} positions"
        _tell(f"[{count} tokens, {rate:.1f} tokens/s; {read} read in {seconds:.1f} s; {held}]")
        if interrupted.told:
            _tell("[stopped]")
        elif ends is None and texts.stop is None:
            full = self._conversation.held + 1 >= self.positions
            _tell("[the positions are used up: /undo or /reset]" if full else f"[cut at {self._max_tokens} tokens]")

    def _picture(self, name) -> Media:
        picture = self._dialogue.open_picture(Path(name.strip()).expanduser())
        self._sources[id(picture)] = str(Path(name.strip()).expanduser().absolute())
        return picture

    def _show(self, name):
        if not name:
            raise InputError("/image takes the path of a picture")
        self._shown.append(self._picture(name))
        _tell(f"[{name} is shown with your next words]")

    def _undo(self, _):
        if self._shown:
            self._shown.pop()
            _tell("[the last picture is taken back]")
        elif len(self._messages) == len(self._begun):
            raise InputError("there is nothing to take back")
        else:
            del self._messages[-2:]
            _tell("[your last words and the answer are taken back]")

    def _reset(self, _):
        self._messages, self._shown = list(self._begun), []
        _tell("[the conversation begins anew]")

    def _save(self, name):
        if not name:
            raise InputError("/save takes the path of a file")
        messages = [{"role": one.role, "content": [self._typed(part) for part in one.parts]} for one in self._messages]
        path = Path(name).expanduser()
        try:
            path.write_text(json.dumps({"messages": messages}, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        _tell(f"[written to {path}]")

    def _typed(self, part):
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "image", "image": self._sources[id(part)]}

    def _help(self, _):
        _tell(HELP)


_COMMANDS = {
    "/image": Chat._show,
    "/undo": Chat._undo,
    "/reset": Chat._reset,
    "/save": Chat._save,
    "/help": Chat._help,
}


class _Interrupted:
    """Within it, the first Ctrl-C is told and nothing more; a second one ends the program."""

    def __enter__(self) -> _Interrupted:
        self.told, self._before = False, signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _hear(self, number, frame):
        self.told = True
        signal.signal(signal.SIGINT, self._before)


def _of_run(options) -> tuple[Dialogue, int]:
    config = read_config(find_run(options.checkpoint)[0])
    check_can_write(config, "mmjax chat", families=("flamingo", "inline"))
    spelling = SPELLINGS[options.template] if options.template else _spelling_of(config)
    mesh = usable_mesh(config)
    loaded = load_run(options.checkpoint, mesh)
    layout = config.data.layout
    reader = RunReader(
        loaded.model, loaded.params, loaded.tokenizer, most_pictures=options.pictures, layout=layout, mesh=mesh
    )
    dialogue = RunDialogue(reader, picture_size=config.data.image_size, spelling=spelling)
    return dialogue, loaded.model.config.decoder.max_length


def _spelling_of(config) -> Spelling:
    """As the first source of conversations is spelled; without words where there is none."""
    for source in config.data.sources.values():
        if source.kind in ("chat", "llava"):
            return SPELLINGS[source.options.get("template", ConversationOptions.template)]
    return Spelling()


def _of_folder(options) -> tuple[Dialogue, int]:
    folder = local_path(options.model)
    reader = FolderReader(load_pretrained(folder), most_pictures=options.pictures)
    spelling = SPELLINGS[options.template] if options.template else None
    dialogue = FolderDialogue(reader, folder, spelling=spelling)
    if not dialogue.has_template and spelling is None:
        _tell(f"{folder} has no chat template: turns are put together without any words; --template NAME spells them")
    return dialogue, reader.writer.decoder.max_length


def _lines():
    """What is typed, or the lines of what is piped in. Ctrl-C leaves a line, and does not end."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401 (lines can be edited from then on)

    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return


def _print(text):
    print(text, end="", flush=True)
    return text


def _tell(text):
    print(text, file=sys.stderr, flush=True)
