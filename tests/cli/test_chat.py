"""`mmjax chat`: turns and commands from a pipe, what is wrong with them told, an answer stopped by Ctrl-C."""

import io
import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from mmjax.cli.chat import Chat
from mmjax.decoding.dialogue import RunDialogue
from mmjax.decoding.readers import RunReader
from mmjax.decoding.sampling import Sampling
from mmjax.text.chat import Spelling
from tests.decoding.tiny_models import LetterTokenizer, random_parameters, tiny_model

pytestmark = pytest.mark.usefixtures("quick_programs")

MODEL = tiny_model()
SAMPLING = Sampling(min_tokens=99)  # a random model would end where it likes


@pytest.fixture(scope="module")
def dialogue():
    reader = RunReader(MODEL, random_parameters(MODEL), LetterTokenizer(), most_pictures=2)
    return RunDialogue(reader, picture_size=8, spelling=Spelling(after_system=""))


@pytest.fixture
def chat(dialogue, capsys):
    """Takes lines; returns what went to the standard output and the standard error."""
    talk = Chat(dialogue, positions=64, system=None, sampling=SAMPLING, max_tokens=5, stop=())

    def take(*lines):
        capsys.readouterr()
        for line in lines:
            talk.take(line)
        return capsys.readouterr()

    return take


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a b.png", "c.png", "d.png"):
        Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def test_turns_are_answered_and_taken_back(chat):
    first = chat("abc")
    assert len(first.out) == 6 and first.out.endswith("\n")
    assert "[5 tokens, " in first.err and "4 read in" in first.err and "8 of 64 positions" in first.err
    assert "cut at 5 tokens" in first.err
    second = chat("de")
    # The answer's last token and its end, and the new words.
    assert "4 read in" in second.err
    assert chat("/undo", "de").out == second.out
    chat("/undo", "/undo")
    assert chat("abc").out == first.out
    chat("/reset")
    assert chat("abc").out == first.out
    assert "nothing to take back" in chat("/reset", "/undo").err


def test_pictures_stand_where_they_are_named(chat, pictures):
    blind = chat("abc").out
    shown = chat("/reset", f"/image {pictures}/a b.png", "abc")
    assert "is shown with your next words" in shown.err and shown.out != blind
    within = chat("/reset", f"<{pictures}/a b.png>abc")
    assert within.out == shown.out
    assert chat("/reset", f"abc<{pictures}/c.png>").out not in (blind, shown.out)
    # Taken back before it was shown.
    assert chat("/reset", f"/image {pictures}/c.png", "/undo", "abc").out == blind


def test_what_is_wrong_is_told_and_the_conversation_goes_on(chat, pictures):
    before = chat("abc")
    told = chat("/image nowhere.png", "de <nowhere.png>", "/nosuch", "/image", "/save", f"/save {pictures}/no/file").err
    for words in ("nowhere.png", "no command /nosuch", "/image takes the path", "/save takes", "cannot be written"):
        assert words in told
    assert told.count("error: ") == 6
    many = chat(*[f"/image {pictures}/{name}" for name in ("a b.png", "c.png", "d.png")], "de").err
    assert "3 pictures, and at most 2" in many
    chat("/undo", "/undo", "/undo")
    after = chat("de")
    assert after.out and "error" not in after.err
    assert chat("/reset", "abc").out == before.out
    full = chat("/reset", "abcde" * 12, "a", "/undo", "b")
    assert "positions are used up" in full.err and "/undo or /reset makes room" in full.err
    assert full.out.count("\n") == 2


def test_a_conversation_is_saved_as_training_data(chat, pictures):
    answer = chat(f"<{pictures}/c.png>abc").out.strip()
    chat(f"/save {pictures}/talk.jsonl")
    [line] = (pictures / "talk.jsonl").read_text().splitlines()
    asked = [{"type": "image", "image": str(pictures / "c.png")}, {"type": "text", "text": "abc"}]
    said = [{"type": "text", "text": answer}]
    assert json.loads(line) == {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    }


def test_ctrl_c_stops_the_answer_only(dialogue, capsys, monkeypatch, request):
    # A shell's background jobs ignore it.
    handled = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handled))
    talk = Chat(dialogue, positions=64, system=None, sampling=SAMPLING, max_tokens=30, stop=())
    talk.take("abc")
    whole = capsys.readouterr().out

    def decode(tokens, own=dialogue.reader.decode, heard=[]):  # noqa: B006 (once)
        heard.append(tokens)
        if len(heard) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return own(tokens)

    monkeypatch.setattr(dialogue.reader, "decode", decode)
    talk.take("/reset")
    talk.take("abc")
    stopped = capsys.readouterr()
    assert 1 <= len(stopped.out.strip()) < 10 and whole.startswith(stopped.out.strip())
    assert "[stopped]" in stopped.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    with monkeypatch.context() as patched:

        def prepare(messages, own=dialogue.prepare):
            os.kill(os.getpid(), signal.SIGINT)
            return own(messages)

        patched.setattr(dialogue, "prepare", prepare)
        talk.take("de")
    before = capsys.readouterr()
    assert before.out == "" and "stopped before an answer" in before.err
    talk.take("de")
    after = capsys.readouterr()
    assert after.out and "error" not in after.err


def test_stop_strings_and_a_system_prompt(dialogue, capsys):
    def first(**settings):
        given = {"system": None, "stop": ()} | settings
        Chat(dialogue, positions=64, sampling=SAMPLING, max_tokens=9, **given).take("abc")
        return capsys.readouterr().out.strip()

    whole = first()
    assert first(stop=(whole[3:5],)) == whole[: whole.index(whole[3:5])]
    assert first(system="be") != whole


def test_the_verb_reads_a_pipe(mmjax, refused, monkeypatch, tmp_path, torch):
    from tests.interop.test_pretrained import llava

    llava(tmp_path)
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "a.png")
    lines = f"/help\na cat\n\n/image {tmp_path}/a.png\nwhat is it?\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    code, out, err = mmjax("chat", "--model", tmp_path, "--positions", 96, "--max-tokens", 4)
    assert code == 0 and out.count("\n") >= 2
    assert "96 positions" in err and "no chat template" in err and err.count("tokens/s") == 2
    assert "error" not in err
    assert "--max-tokens must be 1 or more" in refused("chat", "--model", tmp_path, "--max-tokens", 0)
    assert "required" in refused("chat")
