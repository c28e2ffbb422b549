"""Progress bars are drawn for people at a terminal only, and count what a resumed run still has to do."""

import io
import sys

import pytest

from mmjax.core.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_drawn_on_a_terminal_and_nowhere_else(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(progress_bar(range(5), what="evaluate", unit="query")) == list(range(5))
    drawn = sys.stderr.getvalue()
    if stream is Terminal:
        assert "evaluate: 100%" in drawn and "5/5" in drawn and "query/s" in drawn
    else:
        assert drawn == ""


def test_a_resumed_run_counts_what_was_done(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(total=10, initial=8, what="train", unit="step") as bar:
        bar.update(1)
        bar.refresh()
        assert "train:  90%" in sys.stderr.getvalue() and "9/10" in sys.stderr.getvalue()
        assert bar.format_dict["n"] - bar.format_dict["initial"] == 1  # the rate is of what this process did
