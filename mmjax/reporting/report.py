"""The report of a run: one self-contained page, written from whatever the run has left so far."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from mmjax.data.show import picture_uri
from mmjax.reporting.attention import AttentionMap
from mmjax.reporting.charts import MAX_POINTS
from mmjax.reporting.curves import training_charts
from mmjax.reporting.episodes import episode_groups
from mmjax.reporting.facts import count_parts, duration, facts, signals, training_seconds, versions
from mmjax.reporting.page import render
from mmjax.reporting.pictures import enlarged, heat_range, overlay, ramp_css
from mmjax.reporting.scores import Score, headlines, progress_chart, read_scores, shots_chart, table_groups
from mmjax.reporting.workdir import Run, read_run


def write_report(workdir: str | os.PathLike, *, attention: Sequence[AttentionMap] | None = None) -> pathlib.Path:
    """Writes `workdir/report.html` and returns its path. What the run has not left yet, the page says.

    Raises:
      InputError: there is no such folder.
    """
    run = read_run(workdir)
    page = render("report.html", _view(run, attention or ()))
    path = run.folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _view(run: Run, attention: Sequence[AttentionMap]) -> dict[str, Any]:
    """Everything that the template shows."""
    scores = read_scores(run.scores)
    parts = count_parts(run.checkpoint)
    return {
        "title": run.folder.resolve().name,
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "workdir": str(run.folder),
        "signals": signals(run),
        "time": duration(training_seconds(run)),
        "parts": parts,
        "parameters": sum(part.parameters for part in parts),
        "trained": sum(part.trained for part in parts),
        "headlines": headlines(scores),
        "tasks": table_groups(scores),
        "columns": _columns(scores),
        "score_charts": [chart for chart in (shots_chart(scores), progress_chart(run.evaluations)) if chart],
        "charts": training_charts(run.metrics),
        "logged": len(run.metrics),
        "most_points": MAX_POINTS,
        "groups": episode_groups(run.folder, run.predictions),
        **_maps(attention),
        "facts": facts(run),
        "versions": versions(run),
        "config": json.dumps(run.config, indent=2) if run.config else "",
        "problems": run.problems,
    }


def _columns(scores: Sequence[Score]) -> dict[str, Any]:
    """Which columns of the table of scores have anything to tell."""
    return {
        "selection": len({score.selection for score in scores}) > 1,
        "controls": sorted({name for score in scores for name in score.controls}),
    }


def _maps(attention: Sequence[AttentionMap]) -> dict[str, Any]:
    if not attention:
        return {"maps": []}
    limits = heat_range([one.heat for one in attention])
    maps = [
        {
            "map": one,
            "picture": picture_uri(enlarged(one.picture)),
            "overlay": picture_uri(overlay(one.picture, one.heat, limits)),
            "most": float(one.heat.max()),
        }
        for one in attention
    ]
    return {"maps": maps, "limits": limits, "ramp": ramp_css()}
