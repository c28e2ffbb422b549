"""The files of an evaluation, its table, and the samples of the closing command."""

import json
import shlex

import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.episode import prompt_segments
from mmjax.decoding.prompt import Prompt, open_picture
from mmjax.decoding.rows import tokenize_prompt
from mmjax.evaluation.files import score_table, write_samples, write_scores
from mmjax.evaluation.tasks import Task, digit_tasks
from mmjax.text.tokenizer import ByteTokenizer

SIZE = 16
DATA = DataConfig(sources={"bind": SourceEntry("digits_bind"), "scene": SourceEntry("digits_scene")}, image_size=SIZE)
ROW = {
    "task": "bind_2way",
    "shots": 4,
    "selection": "random",
    "control": "none",
    "score": 0.9751,
    "low": 0.96,
    "high": 1.0,
    "n": 1077,
    "seeds": 3,
    "chance": 0.5,
}


def test_scores_are_written_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "run"
    assert write_scores(folder, [ROW]) == folder / "scores.json"
    assert json.loads((folder / "scores.json").read_text("utf-8")) == [ROW]
    with pytest.raises(TypeError):
        write_scores(folder, [{**ROW, "n": object()}])
    assert json.loads((folder / "scores.json").read_text("utf-8")) == [ROW]


def test_the_table_lines_up():
    without = {**ROW, "task": "hateful_memes", "shots": 0, "low": None, "high": None, "chance": None}
    table = score_table([ROW, {**ROW, "task": "read_single", "control": "blanked", "score": 0.1}, without])
    heading, rule, first, second, third = table.splitlines()
    assert heading.split() == ["task", "shots", "picked", "control", "score", "95%", "interval", "answers", "chance"]
    assert first.split() == ["bind_2way", "4", "random", "none", "97.5", "96.0", "to", "100.0", "1077", "50.0"]
    assert second.split()[:5] == ["read_single", "4", "random", "blanked", "10.0"]
    assert third.split() == ["hateful_memes", "0", "random", "none", "97.5", "-", "1077", "-"]
    assert len(heading) == len(rule) == len(first) == len(second)


def test_samples_are_the_prompt_of_an_episode(tmp_path):
    task = digit_tasks(DATA)["bind_2way"]
    sample = write_samples(tmp_path, task)
    episode = task.episodes(2, 0, 1)[0]
    shots = [(open_picture(path, size=SIZE), text) for path, text in sample.shots]
    prompt = Prompt.from_text(sample.prompt, [open_picture(sample.image, size=SIZE)]).after(shots)
    asked = Prompt(prompt_segments(episode))
    tokenizer = ByteTokenizer()
    np.testing.assert_array_equal(tokenize_prompt(prompt, tokenizer).tokens, tokenize_prompt(asked, tokenizer).tokens)
    for own, drawn in zip(prompt.media, asked.media, strict=True):
        np.testing.assert_array_equal(own.load()[0], drawn.load()[0])
    assert sample.answer == episode.query.answer and len(sample.shots) == 4
    assert all(path.parent == tmp_path / "samples" for path, _ in sample.shots)

    words = shlex.split(sample.arguments(tmp_path))
    assert words[::2] == ["--shot"] * 4 + ["--image", "--prompt"]
    assert words[1].startswith("samples/shot_1_") and words[1].endswith(f":{sample.shots[0][1]}")
    assert words[-3:] == ["samples/query.png", "--prompt", "this is a"]


def test_several_questions_about_one_picture_are_no_sample(tmp_path):
    task = digit_tasks(DATA)["read_scene_count"]
    kept = task.episodes(0, 0, 1)[0]
    turn = kept.query.__class__(None, "how many digits?", "2")
    both = kept.__class__(kept.id, (kept.query,), turn, kept.candidates, kept.kind)
    with pytest.raises(InputError, match="several questions about one picture"):
        write_samples(tmp_path, Task("scenes", lambda shots, seed, queries: [both]))
