"""Workdirs as a run leaves them, with made-up numbers and real scans for pictures."""

import functools
import io
import json
import math
import random

import numpy as np
from etils import epath
from PIL import Image
from sklearn.datasets import load_digits

from mmjax.checkpoints.manifest import LeafRecord, Manifest
from mmjax.data.show import picture_uri
from mmjax.reporting.attention import AttentionMap

WORDS = ("dax", "wug", "fep", "gom", "kiv")
KINDS = ("all", "count", "sum", "largest", "smallest", "contains", "left", "right", "above", "below")
CONFIG = {
    "seed": 0,
    "total_steps": 1200,
    "batch_size": 32,
    "compute_dtype": "float32",
    "optim": {"learning_rate": 0.002, "schedule": "cosine", "note": "<script>alert(1)</script>"},
}


@functools.cache
def scans():
    """Pictures u8 [1797, 32, 32, 3] of the digit scans, and their labels."""
    digits = load_digits()
    enlarged = [
        np.asarray(Image.fromarray(np.uint8(image * 15.9)).resize((32, 32), Image.Resampling.BICUBIC))
        for image in digits.images
    ]
    return np.repeat(np.stack(enlarged)[..., None], 3, axis=-1), digits.target


def metrics(steps=1200, every=5):
    """Rows of metrics.jsonl of a run that goes well."""
    rng = random.Random(0)
    rows = []
    for step in range(every, steps + 1, every):
        done = step / steps
        loss = {
            "read": 2.2 * math.exp(-7 * done) + 0.03,
            "scene": 1.4 * math.exp(-1.8 * done) + 0.25,
            "bind": 1.1 / (1 + math.exp(14 * (done - 0.35))) + 0.02,
        }
        loss = {name: value * rng.lognormvariate(0, 0.12) for name, value in loss.items()}
        total = 0.5 * loss["bind"] + 0.3 * loss["read"] + 0.2 * loss["scene"]
        row = {
            "step": step,
            "loss": total,
            **{f"loss/{name}": value for name, value in loss.items()},
            **{f"accuracy/{name}": math.exp(-value) for name, value in loss.items()},
            "gradient_norm": 2.0 * math.exp(-2 * done) * rng.lognormvariate(0, 0.3),
            "update_norm": 0.2 * math.exp(-2 * done) * rng.lognormvariate(0, 0.2),
            "parameter_norm": 41 + 9 * done,
            "learning_rate": 0.002 * min(1, step / 100) * (0.5 + 0.5 * math.cos(math.pi * done)),
            "examples_per_second": 310 + rng.gauss(0, 9),
            "tokens_per_second": 13200 + rng.gauss(0, 400),
            "useful_tokens_per_second": 11000 + rng.gauss(0, 400),
            "useful_token_share": 0.83 + rng.gauss(0, 0.01),
            "images_per_second": 820 + rng.gauss(0, 20),
            "flops_per_second": 3.1e10,
            "mfu": None,
            "data_wait_share": 0.02 + abs(rng.gauss(0, 0.01)),
            "gates": {
                f"decoder/layers/cross_0/{kind}_gate": [math.tanh(0.5 + speed * k * done) for k in (1, 2, 3)]
                for kind, speed in (("attention", 0.3), ("mlp", -0.12))
            },
            "skipped_steps": 0,
            "recompilations": 0,
            "seconds": 0.21 * every,
        }
        if step % 25 == 0:
            row["grounding_gap"] = 2.1 * (1 - math.exp(-4 * done))
            row |= {f"grounding_gap/{name}": row["grounding_gap"] * k for name, k in (("read", 1.1), ("bind", 0.7))}
        rows.append(row)
    return rows


def score(task, shots, share, n, chance, control="none"):
    """A row of scores.json."""
    half = 1.96 * math.sqrt(max(share * (1 - share), 0.002) / n)
    low, high = max(0.0, share - half), min(1.0, share + half)
    return {
        "task": task,
        "shots": shots,
        "selection": "random",
        "control": control,
        "score": share,
        "low": low,
        "high": high,
        "n": n,
        "seeds": 3,
        "chance": chance,
    }


def scores():
    """Rows of scores.json: reading, scenes, and binding with more and more shots."""
    rows = []
    for task, share in (("read_single", 0.983), ("read_interleaved", 0.978)):
        rows.append(score(task, 0, share, 1080, 0.1))
        rows.append(score(task, 0, 0.102, 360, 0.1, "blanked"))
        rows.append(score(task, 0, 0.108, 360, 0.1, "shuffled"))
    for place, kind in enumerate(KINDS):
        chance = {"contains": 0.5, "count": 1 / 3, "sum": 1 / 37}.get(kind, 0.1)
        rows.append(score(f"read_scene_{kind}", 0, min(0.95, chance + 0.07 * place), 120, chance))
    for task, chance, gain in (
        ("bind_2way", 0.5, 0.48),
        ("bind_5way", 0.2, 0.7),
        ("bind_2way_heldout", 0.5, 0.41),
        ("bind_2way_rotated", 0.5, 0.22),
    ):
        for shots in (0, 1, 2, 4, 8):
            rows.append(score(task, shots, chance + gain * (1 - math.exp(-1.3 * shots)), 600, chance))
        rows.append(score(task, 4, chance - 0.01, 600, chance, "blanked"))
    return rows


def predictions(folder, each=8):
    """Rows of predictions.jsonl; half of the pictures as files under `folder`, half as data addresses."""
    pictures, labels = scans()
    rng = random.Random(1)
    (folder / "samples").mkdir(exist_ok=True)

    def picture(scan):
        if scan % 2:
            return picture_uri(pictures[scan])
        buffer = io.BytesIO()
        Image.fromarray(pictures[scan]).save(buffer, "PNG")
        (folder / f"samples/{scan}.png").write_bytes(buffer.getvalue())
        return f"samples/{scan}.png"

    rows = []
    for number in range(each):
        scan = rng.randrange(len(labels))
        wrong = number % 4 == 3
        answer = str(labels[scan])
        guess = str((labels[scan] + 1) % 10) if wrong else answer
        logprobs = {str(digit): -6.0 + rng.random() for digit in range(10)} | {guess: -0.1, str(9 - labels[scan]): -3.0}
        rows.append(_prediction("read_single", 0, scan, "<image>", [], answer, guess, logprobs, picture))
        for kind in ("sum", "left", "count", "largest"):
            rows.append(
                _prediction(f"read_scene_{kind}", 0, scan, f"<image>what is the {kind}?", [], "7", guess, None, picture)
            )
        for ways, task in ((2, "bind_2way"), (5, "bind_5way")):
            classes = rng.sample(range(10), ways)
            words = dict(zip(classes, rng.sample(WORDS, ways), strict=True))
            shots = [rng.choice(np.flatnonzero(labels == digit)) for digit in classes for _ in range(2)]
            rng.shuffle(shots)
            scan = rng.choice(np.flatnonzero(labels == classes[0]))
            shown = [{"text": f"this is a {words[labels[shot]]}.", "image": picture(shot)} for shot in shots]
            answer = words[classes[0]]
            guess = words[classes[1]] if wrong else answer
            logprobs = {word: -3.0 + rng.random() for word in words.values()} | {guess: -0.2}
            prompt = "".join(f"<image>{one['text']}" for one in shown) + "<image>this is a"
            rows.append(_prediction(task, 2, scan, prompt, shown, answer, guess, logprobs, picture))
        rows.append(rows[-1] | {"control": "blanked", "prediction": "BLANKED"})
        rows.append(rows[-2] | {"image": None, "prediction": "NOT KEPT"})
    return rows


def _prediction(task, shots, scan, prompt, shown, answer, guess, logprobs, picture):
    return {
        "task": task,
        "shots": shots,
        "seed": 0,
        "control": "none",
        "id": f"{task}:0:{scan}",
        "prompt": prompt,
        "demonstrations": shown,
        "image": picture(scan),
        "answer": answer,
        "prediction": guess,
        "correct": guess == answer,
        "candidates": logprobs,
    }


def evaluations():
    """Rows of evaluations.jsonl."""
    return [
        {
            "step": step,
            "rows": [
                score("read_single", 0, min(0.98, 0.1 + step / 900), 100, 0.1),
                score("bind_2way", 4, min(0.98, 0.5 + step / 1500), 100, 0.5),
            ],
        }
        for step in (200, 400, 600, 800, 1000, 1200)
    ]


def write_manifest(folder, step=1200):
    """A checkpoint's manifest, of a model whose vision is frozen."""
    shapes = {
        "frozen/vision/layers/attention/query/kernel": (4, 96, 4, 24),
        "params/resampler/layers/mlp/up/kernel": (2, 96, 384),
        "params/decoder/layers/cross_0/attention/query/kernel": (3, 128, 4, 32),
        "params/decoder/layers/self_0/attention/query/kernel": (3, 128, 4, 32),
        "params/decoder/embedding": (261, 128),
        "optimizer/0/mu/decoder/embedding": (261, 128),
    }
    leaves = {name: LeafRecord(shape, "float32", "0" * 16) for name, shape in shapes.items()}
    target = epath.Path(folder / "checkpoints" / str(step))
    target.mkdir(parents=True)
    versions = {"mmjax": "0.1.0", "jax": "0.10.2", "python": "3.11.9"}
    Manifest(step, leaves, {}, {"step": step}, CONFIG, {}, versions).write(target)


def write_run(folder):
    """A run that is done and evaluated. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "metrics.jsonl", metrics())
    write_lines(folder / "evaluations.jsonl", evaluations())
    write_lines(folder / "predictions.jsonl", predictions(folder))
    write_lines(folder / "bad_records.jsonl", [])
    (folder / "scores.json").write_text(json.dumps(scores()))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    versions = {"mmjax": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "python": "3.11.9", "devices": ["cpu:0"]}
    (folder / "versions.json").write_text(json.dumps(versions))
    write_manifest(folder)
    return folder


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def attention_maps():
    """Maps whose heat lies on the strokes of the digit."""
    pictures, labels = scans()
    maps = []
    for scan in (3, 14, 40, 77, 130):
        ink = Image.fromarray(pictures[scan][..., 0]).resize((8, 8)).resize((32, 32), Image.Resampling.BILINEAR)
        heat = np.asarray(ink, np.float32) ** 2 + 60
        wrong = scan == 77
        answer = f"{labels[scan]}."
        prediction = "1." if wrong else answer
        maps.append(AttentionMap(pictures[scan], heat / heat.mean(), prediction[0], "▣", answer, prediction))
    maps.append(AttentionMap(pictures[5], np.ones((32, 32), np.float32), "d", "▣this is a dax.▣this is a ", "", ""))
    return maps
