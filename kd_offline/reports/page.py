"""Build an HTML page from sections, with its style sheet inside the file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from kd_offline.errors import MissingExtraError
from kd_offline.reports.tables import Table
from kd_offline.untrusted_text import for_page


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a page; ``figures`` are ``<svg>`` elements, one below the other."""

    id: str
    title: str
    text: str
    figures: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def fill(template: str, **values: Any) -> str:
    """Return the page that a template gives; everything in ``values`` is escaped.

    Raises
    ------
    MissingExtraError
        jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(
            library="jinja2", extra="report", purpose="an HTML report"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    return environment.get_template(template).render(style=resource("report.css"), **values)


def _printable(value: Any) -> Any:
    """Return a plain string without control and invisible characters; leave markup as it is."""
    return for_page(value) if type(value) is str else value


def resource(name: str) -> str:
    """Return the text of a file of this package."""
    return (files("kd_offline.reports") / name).read_text(encoding="utf-8")
