import html.parser
import json
import re
import xml.etree.ElementTree

import pytest

from mmjax.core.errors import InputError
from mmjax.reporting.report import write_report
from tests.reporting.fabricated_run import CONFIG, attention_maps, metrics, scores, write_lines, write_run

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """The text of a page, its addresses and sections; refuses tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.words, self.pictures, self.tags = [], [], [], [], []
        self.feed(text)
        assert not self.open

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        if name not in VOID:
            self.open.append(name)
        for key, value in attributes:
            if key in ("src", "href", "xlink:href", "data", "action", "srcset"):
                (self.pictures if name == "img" else self.addresses).append(value)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("runs") / "flamingo_digits")
    path = write_report(folder, attention=attention_maps())
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(page):
    parsed = Page(page)
    assert all(address.startswith("#") for address in parsed.addresses)
    assert all(address.startswith("data:image/") for address in parsed.pictures)
    assert parsed.tags.count("script") == 1 and "link" not in parsed.tags and "iframe" not in parsed.tags
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and 'name="viewport"' in page
    assert set(re.findall(r"https?://[^\"' <]+", page)) == {"http://www.w3.org/2000/svg"}


def test_what_a_reader_wants_to_know_comes_in_order(page):
    text = Page(page).text
    wanted = [
        "flamingo_digits",
        "Trained in 4 min 12 s ; 242k parameters, of which 36.9k are frozen",
        "all 1,200 steps done",
        "grounding gap 2.06 nats",
        "read single 0 shots 98.3% 95% interval 97.5% to 99.1% chance 10.0% pictures blanked 10.2%",
        "bind 2-way 4 shots 97.7%",
        "Score against shots",
        "Held-out score while training",
        "95% interval",
        "Training",
        "Loss",
        "Grounding gap",
        "Gates",
        "Norms",
        "Learning rate",
        "Throughput",
        "Held-out episodes",
        "this is a",
        "Where the answer looked",
        "Facts of the run",
        "cross attention 49,152 all",
        "Configuration",
    ]
    place = 0
    for words in wanted:
        assert words in text[place:], words
        place = text.index(words, place)


def test_every_drawing_is_well_formed(page):
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 10
    for drawing in drawings:
        root = xml.etree.ElementTree.fromstring(drawing)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for node in root.iter("circle"):
            assert 0 <= float(node.attrib["cx"]) <= width and 0 <= float(node.attrib["cy"]) <= height
        hover = json.loads(root.attrib["data-series"])
        assert all(len(one["x"]) == len(one["y"]) == len(one["text"]) <= 160 for one in hover)


def test_text_of_the_run_is_never_markup(page):
    assert CONFIG["optim"]["note"] not in page
    assert "&lt;script&gt;alert(1)" in page.replace("&#34;", '"')


def test_attention_is_drawn_as_two_pictures_a_map(page):
    section = page[page.index('id="attention"') : page.index('id="facts"')]
    assert section.count("<img") == 2 * len(attention_maps())
    assert "✓ writes “3.” · peak" in section and "✗ writes “1.”, right is “2.” · peak" in section
    assert "peak 1\N{MULTIPLICATION SIGN} even" in section


def test_an_empty_workdir_gives_a_page_that_says_so(tmp_path):
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    for words in (
        "was not evaluated yet",
        f"mmjax eval --checkpoint {tmp_path}",
        "No training step was logged",
        "No episodes with pictures were kept",
        "No attention was computed",
        "left no facts yet",
        "There is no config.json",
    ):
        assert words in page.text
    assert page.text.count("Could not be read") == 0


def test_one_logged_step_is_enough_for_curves(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", metrics()[:1])
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Only one step was logged so far" in Page(page).text
    assert page.count("<svg") == 7 and "NaN" not in page.replace("isNaN", "")


def test_scores_without_training_are_shown(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(scores()[:1]))
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "read single 0 shots 98.3%" in text and "No training step was logged" in text


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path):
    lines = [json.dumps(row) for row in metrics()[:3]]
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], "{broken", lines[1], lines[2]]) + '\n{"step": 20, "lo')
    (tmp_path / "scores.json").write_text("[{")
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    (tmp_path / "checkpoints" / "7" / "manifest.json").write_text("{}")
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "metrics.jsonl: what is not a JSON object was left out, line 2" in text
    assert "scores.json is not JSON" in text
    assert "checkpoint 7: manifest.json is damaged" in text
    assert "Loss" in text


def test_a_folder_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; give the --workdir of a run"):
        write_report(tmp_path / "nowhere")
