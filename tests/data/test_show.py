"""The page shows each row's tokens, pictures and losses as the batch holds them, in one file."""

import base64
import html.parser
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.show import render_rows, summarise
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer
from tests.data.sources.made import COUNT, jsonl

TOKENIZER = ByteTokenizer()


class Page(html.parser.HTMLParser):
    """Tokens and pictures of a page, in order; every element opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tokens, self.pictures, self.links, self._open = [], [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given[key] for key in ("src", "href") if key in given]
        if tag == "span" and "data-media" in given:
            self.tokens.append(given)
        if tag == "img":
            self.pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(given["src"].split(",")[1])))))
        if tag not in ("meta", "img", "wbr"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    config = DataConfig(
        sources={
            "bind": SourceEntry("digits_bind", options={"count": 20, "shots": [1]}),
            "scene": SourceEntry("digits_scene", options={"count": 20}),
        },
        length=112,
        images=8,
    )
    stream = BatchStream(config, TOKENIZER, batch_size=4, seed=0, workers=0)
    items = list(itertools.islice(stream, 2))
    path = tmp_path_factory.mktemp("show") / "rows.html"
    render_rows(items, TOKENIZER, path, dataset_names=stream.dataset_names, title="a <title>")
    return items, stream, path.read_text(encoding="utf-8")


def test_tokens_say_what_they_look_at_and_what_is_learned(shown):
    items, _, text = shown
    tokens = Page(text).tokens
    batches = [item.batch for item in items]
    used = np.concatenate([batch.segment_ids.ravel() for batch in batches]) > 0
    media = np.concatenate([batch.media_index.ravel() for batch in batches])[used]
    learned = np.concatenate([np.roll(batch.loss_weights, 1, axis=1).ravel() for batch in batches])[used] > 0
    assert [int(token["data-media"]) for token in tokens] == media.tolist()
    assert ["learned" in token["class"].split() for token in tokens] == learned.tolist()
    assert learned.any()


def test_pictures_are_those_of_the_batch_in_order(shown):
    items, _, text = shown
    expected = [picture for item in items for picture in item.batch.images[item.batch.image_mask]]
    drawn = Page(text).pictures
    assert len(drawn) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_the_page_stands_by_itself_and_escapes_what_it_is_given(shown):
    _, _, text = shown
    assert all(link.startswith("data:") for link in Page(text).links)
    assert "a &lt;title&gt;" in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_summary_counts_each_data_set(shown):
    items, stream, _ = shown
    table = {line["name"]: line for line in summarise(items, stream.dataset_names)}
    assert set(table) == {"bind", "scene"}
    assert table["bind"]["rows"] == table["scene"]["rows"] == 4
    scenes = [item.batch for item in items]
    used = np.concatenate([batch.segment_ids[batch.dataset_ids == 1] > 0 for batch in scenes])
    assert table["scene"]["tokens"] == pytest.approx(used.mean())
    assert table["bind"]["examples"] == sum(r.count("+") + 1 for i in items for r in i.ids if r.startswith("bind"))


def test_media_of_several_frames(tmp_path):
    """The tiles of a picture stand side by side, and a place counts once, however many frames are in it."""
    options = jsonl(tmp_path) | {"tiles": 2}
    for number in range(COUNT):
        Image.new("RGB", (240, 120), "red").save(tmp_path / f"{number}.jpg")
    sources = {"mine": SourceEntry("jsonl", options=options)}
    config = DataConfig(sources, length=64, images=4, frames=3, image_size=96)
    items = [BatchStream(config, TOKENIZER, batch_size=2, seed=0, workers=0).read(0)]
    render_rows(items, TOKENIZER, tmp_path / "rows.html", dataset_names=["mine"])
    text = (tmp_path / "rows.html").read_text(encoding="utf-8")
    media = text.count("<figure")
    assert len(Page(text).pictures) == items[0].batch.image_mask.sum() == 3 * media > 0
    (line,) = summarise(items, ["mine"])
    assert line["pictures"] == media / 8
    assert "width: 96px" in text and "pixelated" not in text
