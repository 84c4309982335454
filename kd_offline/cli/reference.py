"""Golden ``--help`` texts: ``python -m kd_offline.cli.reference --write cli/reference``."""

from __future__ import annotations

import os
import sys

from kd_offline.published import PublishedFolder

_WIDTH = "80"


def texts() -> dict[str, str]:
    """Return the help of the whole and of every command, by file name."""
    # The parser asks for these when it formats; colours and widths must not depend on who runs it.
    os.environ |= {"COLUMNS": _WIDTH, "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
    import typer.main
    from typer.testing import CliRunner

    from kd_offline.cli.app import app

    run = CliRunner()
    names = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    out = {"kd-offline.txt": run.invoke(app, ["--help"], prog_name="kd-offline").output}
    for name in names:
        help_text = run.invoke(app, [name, "--help"], prog_name="kd-offline").output
        out[f"{name}.txt"] = help_text
    return out


_FOLDER = PublishedFolder(texts, "*.txt", "help-texts")
stale, write, main = _FOLDER.stale, _FOLDER.write, _FOLDER.main


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
