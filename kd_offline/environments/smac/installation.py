"""Find out which parts of StarCraft II are installed: two packages are called ``smac``.

Nothing is imported for it: AutoML's optimiser takes seconds to import, and either may be broken.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from importlib import metadata
from pathlib import Path

from kd_offline.schemas.outputs import StarCraft

SOURCE = "git+https://github.com/oxwhirl/smac.git"
_INSTALL = f"pip install {SOURCE}"
_MAPS = Path("Maps") / "SMAC_Maps"
_LIBRARIES = {"pysc2": "pysc2", "s2clientprotocol": "s2clientprotocol", "absl": "absl-py"}


def look() -> StarCraft:
    """Return the state of this installation."""
    package = _package()
    if package is None:
        return StarCraft(
            state="nothing",
            detail=f"no package smac is installed: run {_INSTALL} (not pip install smac, which is "
            "AutoML's optimiser), then install the game and its maps",
        )
    if not (package / "env").is_dir():
        return _foreign(package)
    return _starcraft(package)


def _package() -> Path | None:
    """Return the folder of the package that ``import smac`` would load."""
    spec = importlib.util.find_spec("smac")
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    origin = places[0] if places else spec.origin
    return Path(origin) if origin else None


def _foreign(package: Path) -> StarCraft:
    """Describe a package of this name that has no ``smac.env``."""
    optimiser = (package / "facade").is_dir()
    owner = (
        "AutoML's optimiser SMAC3 (it has smac.facade and no smac.env)"
        if optimiser
        else "another one (it has no smac.env)"
    )
    return StarCraft(
        state="automl" if optimiser else "foreign",
        detail=f"the package smac in {package} is {owner}, not StarCraft's: both have the same "
        "name and cannot share an installation, so make a virtual environment of its own, or run "
        f"pip uninstall smac and {_INSTALL}",
        package=str(package),
        version=_version(),
    )


def _starcraft(package: Path) -> StarCraft:
    game = game_folder()
    builds, maps = _builds(game), _maps(game)
    lacking = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    found = StarCraft(
        state="ready",
        detail=f"StarCraft's package smac, the game in {game} and {len(maps)} of its maps",
        package=str(package),
        version=_version(),
        game=str(game) if builds else None,
        builds=builds,
        maps=maps,
    )
    if lacking:
        packages = " ".join(_LIBRARIES[name] for name in lacking)
        missing = f"the library {', '.join(lacking)}, which it needs: run pip install {packages}"
    elif not builds:
        missing = (
            f"the game: none is in {game}, so install StarCraft II there or set SC2PATH to its "
            "folder"
        )
    elif not maps:
        missing = f"its maps: unpack SMAC_Maps.zip into {game / 'Maps'}"
    else:
        return found
    state = "no_library" if lacking else "no_game"
    detail = f"StarCraft's package smac is installed without {missing}"
    return found.model_copy(update={"state": state, "detail": detail})


def game_folder() -> Path:
    """Return the folder where PySC2 searches for the game: ``SC2PATH``, or the system's default."""
    usual = {"darwin": "/Applications/StarCraft II", "win32": "C:/Program Files (x86)/StarCraft II"}
    folder = os.environ.get("SC2PATH") or usual.get(sys.platform, "~/StarCraftII")
    return Path(folder).expanduser()


def _builds(game: Path) -> tuple[int, ...]:
    names = (match for path in game.glob("Versions/Base*") if (match := _build(path)))
    return tuple(sorted(int(match[1]) for match in names))


def _build(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"Base(\d+)", path.name) if path.is_dir() else None


def _maps(game: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (game / _MAPS).glob("*.SC2Map")))


def _version() -> str | None:
    try:
        return metadata.version("smac")
    except metadata.PackageNotFoundError:
        return None
