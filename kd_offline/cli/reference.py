"""Golden ``--help`` texts: ``python -m kd_offline.cli.reference --write cli/reference``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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


def stale(folder: Path) -> list[str]:
    """Return the files in ``folder`` that are not as they would be written."""
    wanted = texts()
    found = {file.name: file.read_text("utf-8") for file in folder.glob("*.txt")}
    return [n for n in sorted(wanted.keys() | found.keys()) if wanted.get(n) != found.get(n)]


def write(folder: Path) -> None:
    """Write every help text into ``folder`` and remove those of commands that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.txt"):
        file.unlink()
    for name, text in texts().items():
        (folder / name).write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write the texts, or check that they are in step."""
    mode, folder = arguments
    if mode == "--write":
        write(Path(folder))
        return 0
    if wrong := stale(Path(folder)):
        sys.stderr.write(f"not in step: {', '.join(wrong)}; run make help-texts\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
