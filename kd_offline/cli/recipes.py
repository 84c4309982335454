"""The recipes that ship with the command line: found by name, such as ``--recipe lh-a``."""

from __future__ import annotations

from pathlib import Path

import typer

import kd_offline
from kd_offline.errors import UnknownNameError

_HINT = "or give the path of a .toml file"


def folder() -> Path:
    """Return the folder of the recipes, in the package or in the repository that it runs in."""
    package = Path(kd_offline.__file__).parent
    installed = package / "cli" / "recipes"
    return installed if installed.is_dir() else package.parent / "cli" / "recipes"


def shipped(command: str) -> dict[str, Path]:
    """Return the recipes for ``command``, by name."""
    kinds = {"train": ("train", "bundled"), "record": ("record",)}.get(command, ("distill",))
    found = (file for kind in kinds for file in sorted((folder() / kind).glob("*.toml")))
    return {file.stem: file for file in found}


def find(ctx: typer.Context, value: str | None) -> Path | None:
    """Return the file of a recipe that is given by its path or its name.

    Raises
    ------
    UnknownNameError
        It is neither: no file, and no recipe of the command has this name.
    """
    if value is None:
        return None
    path = Path(value)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    known = shipped(ctx.info_name or "")
    if value not in known:
        raise UnknownNameError(what="recipe", got=value, allowed=known, hint=_HINT)
    return known[value]


def complete(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a recipe."""
    return [name for name in shipped(ctx.info_name or "") if name.startswith(incomplete)]
