"""Golden ``--help`` texts: ``python -m kd_offline.cli.reference --write cli/reference``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from typing import Any

from kd_offline.generated_files import GeneratedFolder

_WIDTH = 80


def texts() -> dict[str, str]:
    """Return the help of the whole and of every command, by file name."""
    # The parser asks for these when it formats; colours must not depend on who runs it.
    os.environ |= {"NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
    import typer.main

    from kd_offline.cli.app import app

    parser = typer.main.get_command(app)
    named = {"kd-offline": (), **{"-".join(words): words for words in _commands(parser)}}
    return {f"{name}.txt": _help(parser, words) for name, words in named.items()}


def _help(parser: Any, words: tuple[str, ...]) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        parser.main([*words, "--help"], prog_name="kd-offline", terminal_width=_WIDTH)
    return printed.getvalue()


def _commands(group: Any) -> Iterator[tuple[str, ...]]:
    """Yield every command by its words, such as ``("bench", "latency")``."""
    for name, command in getattr(group, "commands", {}).items():
        yield (name,)
        yield from ((name, *words) for words in _commands(command))


_FOLDER = GeneratedFolder(texts, "*.txt", "help-texts")
stale, write, main = _FOLDER.stale, _FOLDER.write, _FOLDER.main


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
