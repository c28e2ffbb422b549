"""Models that need no weights, and a benchmark of digits in files, as small as they can be."""

import functools
import hashlib
import json

import numpy as np
from PIL import Image

from mmjax.core.example import Media
from mmjax.data.scans import Scans, ScansConfig
from mmjax.decoding.prompt import Prompt, load_frames
from mmjax.evaluation.benchmark import Benchmark, Item, Template
from mmjax.evaluation.benchmarks.official import WholePicture
from mmjax.evaluation.models.model import Rated
from mmjax.text.tokenizer import ByteTokenizer

SIDE = 16
TOKENIZER = ByteTokenizer()


class Guesser:
    """Writes a digit, and likes some candidates more, by a digest of the prompt and its pictures alone."""

    name = "guesser"

    def __init__(self):
        self.prompts: list[Prompt] = []

    def write(self, prompts, *, max_tokens, stop, beams, progress):
        self.prompts += prompts
        progress(len(prompts))
        return [f" {_number(prompt) % 10}\nrest".partition(stop[0])[0] for prompt in prompts]

    def rate(self, prompts, continuations, *, progress):
        self.prompts += prompts
        progress(len(prompts))
        return [self._rate(prompt, texts) for prompt, texts in zip(prompts, continuations, strict=True)]

    def _rate(self, prompt, texts):
        told = np.array([-1.0 - _number(prompt, text.text) % 997 / 100 for text in texts])
        return Rated(told, tuple(len(text.text) for text in texts), tuple(text.text for text in texts))

    def embed_pictures(self, pictures, *, progress):
        vectors = np.stack([load_frames(medium).reshape(-1).astype(np.float32) - 30 for medium in pictures])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _number(prompt, *more):
    state = hashlib.blake2b(repr((str(prompt), more)).encode(), digest_size=6)
    for medium in prompt.media:
        state.update(load_frames(medium).tobytes())
    return int.from_bytes(state.digest(), "little")


def write_files(folder, *, test=12, train=24):
    """test.json and train.json, [{id, file, digit}], and their pictures."""
    scans = Scans(ScansConfig(), SIDE)
    folder.mkdir(parents=True, exist_ok=True)
    for split, first, count in (("test", 0, test), ("train", 100, train)):
        records = []
        for number in range(count):
            file = f"{split}-{number}.png"
            Image.fromarray(scans.picture(first + number, (0,))).save(folder / file)
            records.append({"id": f"{split}{number}", "file": file, "digit": str(scans.labels[first + number])})
        (folder / f"{split}.json").write_text(json.dumps(records))
    return folder


def read(folder, split, *, ranked=False):
    return [
        Item(
            record["id"],
            (Media((WholePicture(functools.partial(str, folder / record["file"]), record["id"]),)),),
            {"question": "which digit?"},
            (record["digit"],),
            tuple("0123456789") if ranked else (),
            label=record["digit"],
        )
        for record in json.loads((folder / f"{split}.json").read_text())
    ]


def write_results(answers, path):
    path.write_text(json.dumps([{"id": answer.item.id, "answer": answer.answer} for answer in answers]))


def score(results, folder):
    right = {record["id"]: record["digit"] for record in json.loads((folder / "test.json").read_text())}
    given = json.loads(results.read_text())
    return {"accuracy": 100 * float(np.mean([one["answer"] == right[one["id"]] for one in given]))}


def judge(answer):
    return float(answer.answer in answer.item.answers)


WRITTEN = Benchmark(
    "made_vqa",
    read,
    "test.json, train.json and pictures",
    (Template("{image}{question}"), Template("{image}Q: {question} A:")),
    "generate",
    write_results,
    score,
    main_score="accuracy",
    score_one=judge,
    scale=100.0,
    chance=10.0,
    max_tokens=4,
)
RANKED = Benchmark(
    "made_classes",
    functools.partial(read, ranked=True),
    WRITTEN.files,
    WRITTEN.templates,
    "rank",
    write_results,
    score,
    main_score="accuracy",
    score_one=judge,
    scale=100.0,
    chance=10.0,
)
