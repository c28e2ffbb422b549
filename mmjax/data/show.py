"""A page that draws rows as the model gets them: pictures, tokens, what each token looks at, and where the loss is."""

from __future__ import annotations

import base64
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from mmjax.core.arrays import UInt8
from mmjax.data.stream import StreamItem
from mmjax.text.tokenizer import Tokenizer

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_SYMBOLS = {"pad": "·", "bos": "⊢", "eos": "⊣", "image": "▣", "end_of_chunk": "¶"}
_COLOURS = 8  # that the page has for packed examples and for pictures


def render_rows(
    items: Sequence[StreamItem],
    tokenizer: Tokenizer,
    path: str | os.PathLike,
    *,
    dataset_names: Sequence[str],
    title: str = "Rows of the stream",
) -> None:
    """Writes one self-contained HTML page with every row of `items`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("rows.html").render(
        title=title,
        side=max((item.batch.images.shape[-2] for item in items), default=0),
        summary=summarise(items, dataset_names),
        steps=[
            {"step": item.step, "rows": [_row(item, row, tokenizer, dataset_names) for row in range(len(item.ids))]}
            for item in items
        ],
        symbols=[(_SYMBOLS[name], name.replace("_", " ")) for name in _SYMBOLS],
    )
    pathlib.Path(path).write_text(page, encoding="utf-8")


def summarise(items: Sequence[StreamItem], dataset_names: Sequence[str]) -> list[dict[str, Any]]:
    """Per data set: rows, examples, the shares of token and picture places that are used, and tokens with a loss."""
    table = []
    for number, name in enumerate(dataset_names):
        rows = [(item, row) for item in items for row in np.flatnonzero(item.batch.dataset_ids == number)]
        if rows:
            table.append(
                {
                    "name": name,
                    "rows": len(rows),
                    "examples": sum(item.ids[row].count("+") + 1 for item, row in rows),
                    "tokens": np.mean([(item.batch.segment_ids[row] > 0).mean() for item, row in rows]),
                    "pictures": np.mean([_places_used(item.batch.image_mask[row]).mean() for item, row in rows]),
                    "learned": np.mean([(item.batch.loss_weights[row] > 0).mean() for item, row in rows]),
                }
            )
    return table


def _places_used(mask):
    """Which places of a row hold a picture or a video, of however many frames."""
    return mask.reshape(len(mask), -1).any(axis=1)


def _row(item, row, tokenizer, dataset_names):
    batch = item.batch
    used = int((batch.segment_ids[row] > 0).sum())
    weights = batch.loss_weights[row]
    learned = np.concatenate([[0.0], weights[:-1]])
    tokens = [
        {
            **_token(int(batch.tokens[row, place]), tokenizer),
            "segment": int(batch.segment_ids[row, place]),
            "colour": (int(batch.segment_ids[row, place]) - 1) % _COLOURS,
            "media": int(batch.media_index[row, place]),
            "position": int(batch.positions[row, place]),
            "weight": float(learned[place]),
            "first": place > 0 and batch.segment_ids[row, place] != batch.segment_ids[row, place - 1],
        }
        for place in range(used)
    ]
    images, present = batch.images[row], batch.image_mask[row]
    if present.ndim == 1:
        images, present = images[:, None], present[:, None]
    pictures = [
        {
            "number": place + 1,
            "colour": place % _COLOURS,
            "frames": [picture_uri(frame) for frame, there in zip(frames, shown, strict=True) if there],
        }
        for place, (frames, shown) in enumerate(zip(images, present, strict=True))
        if shown.any()
    ]
    return {
        "ids": item.ids[row].split("+"),
        "dataset": dataset_names[int(batch.dataset_ids[row])],
        "tokens": tokens,
        "pictures": pictures,
        "used": used,
        "length": batch.tokens.shape[1],
        "places": len(batch.image_mask[row]),
        "learned": int((weights > 0).sum()),
    }


def _token(number, tokenizer):
    for name, special in tokenizer.special.items():
        if number == special:
            return {"text": _SYMBOLS[name], "name": name.replace("_", " "), "special": True}
    word = next((word for word, control in tokenizer.words.items() if control == number), None)
    if word:
        return {"text": word, "name": "control word", "special": True}
    text = tokenizer.decode([number])
    shown = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return {"text": shown or "∅", "name": repr(text), "special": False}


def picture_uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture as a PNG data address, to stand in a page by itself."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
