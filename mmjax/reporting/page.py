"""Pages that need nothing but themselves: a template of this package, filled."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2

from mmjax.reporting.svg import format_number, percent

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


def render(template: str, view: Mapping[str, Any]) -> str:
    """The page that the template makes of `view`; what is not markup is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": format_number}
    return environment.get_template(template).render(view)
