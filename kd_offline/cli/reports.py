"""``report``: one offline HTML file, or Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kd_offline.cli import options
from kd_offline.cli.output import markdown as print_markdown
from kd_offline.cli.output import show

_EXAMPLES = options.examples(
    "kd-offline report run/",
    "kd-offline report run/ -o report.html",
    "kd-offline report run/ --markdown > report.md",
    "kd-offline report run/ --device stm32f4 --device mine.toml",
)


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(report)


def report(
    run: options.RunFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File.  [default: RUN/report.html]")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown instead of writing HTML.")
    ] = False,
    profile: options.Profiles = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a run's report.

    One HTML file with all plots and tables, which needs no network and no other file.
    """
    if not markdown:
        from kd_offline.reports.html import report as write

        show(write(run, output=output, profiles=profile or (), overwrite=overwrite))
        return
    from kd_offline.files import check_output, write_output
    from kd_offline.reports.markdown import markdown as render

    if output is not None:
        check_output(output, overwrite=overwrite)
    text = render(run, profiles=profile or ())
    if output is None:
        print_markdown(text)
        return
    write_output(output, text, overwrite=overwrite)
    show(output)
