"""Matplotlib figures as inline SVG: text stays text, and equal data gives equal bytes."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kd_offline.errors import MissingExtraError
from kd_offline.reports.page import resource
from kd_offline.untrusted_text import for_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Drawn in these exact colours, then replaced by the page's variables, so that one figure serves
# the light and the dark page.
INK = "#0a0b01"
MUTED = "#0a0b02"
LINE = "#0a0b03"
EXPERT = "#0a0b04"
STUDENT = "#0a0b05"
RANDOM = "#0a0b06"
CEILING = "#0a0b07"
PAPER = "#0a0b08"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    EXPERT: "--expert",
    STUDENT: "--student",
    RANDOM: "--random",
    CEILING: "--ceiling",
    PAPER: "--paper",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kd-offline",
    "font.size": 9.0,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "path.simplify": True,
    "text.parse_math": False,  # a dollar in a name is a dollar
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the report's matplotlib style while the body runs, whatever the user's settings are.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError(
            library="matplotlib", extra="report", purpose="a report with plots"
        ) from error
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    heights: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure (size in inches) and its axes, row by row.

    Call it within :func:`style`. ``heights`` are relative heights of the rows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    return figure, [ax for row in axes for ax in row]


def standalone(svg: str) -> str:
    """Return an SVG of :func:`inline` as a file of its own, in the colours of the light page."""
    colours: dict[str, str] = {}
    for name, colour in re.findall(r"--(\w+): (#\w+);", resource("report.css")):
        colours.setdefault(name, colour)
    for name, colour in colours.items():
        svg = svg.replace(f"var(--{name})", colour)
    paper = f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>'
    opening_tag, body = svg.split(">", 1)
    return f'{opening_tag} xmlns="http://www.w3.org/2000/svg">{paper}{body}\n'


def inline(figure: Figure, name: str, title: str) -> str:
    """Return the figure as one ``<svg>`` element.

    Parameters
    ----------
    figure : Figure
    name : str
        Prefix of the element ids, so that several figures can share a page.
    title : str
        Label for screen readers.
    """
    raw = io.StringIO()
    with warnings.catch_warnings():
        # Letters that the font lacks are in the reader's own; names may be longer than the figure.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(raw, format="svg", transparent=True, metadata={"Date": None})
    text = for_page(raw.getvalue())
    body = text[text.index("<svg") :]
    # A style element inside an inline figure would apply to the whole page.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"(\.\d\d)\d+(?= )", r"\1", body)  # coordinates to a hundredth of a point
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    view = re.search(r'viewBox="([^"]+)"', body)
    box = view.group(1) if view else "0 0 1 1"
    label = html.escape(for_page(title))
    opening_tag = f'<svg viewBox="{box}" role="img" aria-label="{label}">'
    return opening_tag + body[body.index(">") + 1 :].strip()
