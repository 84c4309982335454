"""Golden ``--help`` texts: ``python -m kd_offline.cli.reference --write cli/reference``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from kd_offline.generated_files import GeneratedFolder

_WIDTH = "80"


def texts() -> dict[str, str]:
    """Return the help of the whole and of every command, by file name."""
    # The parser asks for these when it formats; colours and widths must not depend on who runs it.
    os.environ |= {"COLUMNS": _WIDTH, "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
    import typer.main
    from typer.testing import CliRunner

    from kd_offline.cli.app import app

    run = CliRunner()
    out = {"kd-offline.txt": run.invoke(app, ["--help"], prog_name="kd-offline").output}
    for words in _commands(typer.main.get_command(app)):
        help_text = run.invoke(app, [*words, "--help"], prog_name="kd-offline").output
        out[f"{'-'.join(words)}.txt"] = help_text
    return out


def _commands(group: Any) -> Iterator[tuple[str, ...]]:
    """Yield every command by its words, such as ``("bench", "latency")``."""
    for name, command in getattr(group, "commands", {}).items():
        yield (name,)
        yield from ((name, *words) for words in _commands(command))


_FOLDER = GeneratedFolder(texts, "*.txt", "help-texts")
stale, write, main = _FOLDER.stale, _FOLDER.write, _FOLDER.main


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
