"""Folders that look to Python as what people install under the name ``smac``."""

from contextlib import contextmanager
from pathlib import Path

import pytest

STANDIN = "from tests.standins.starcraft import StarCraft2Env\n"


def written(folder, files):
    """Write ``files`` (name -> text) below ``folder`` and return it."""
    for name, text in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return Path(folder)


def _metadata(name, version):
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


def starcraft(site, env=STANDIN, libraries=("pysc2", "s2clientprotocol", "absl")):
    """oxwhirl/smac 1.0.0 with the libraries it needs; ``env`` is the text of ``smac.env``."""
    files = {
        "smac/__init__.py": "",
        "smac/env/__init__.py": env,
        "smac/env/starcraft2/__init__.py": "",
        "smac/env/starcraft2/maps/__init__.py": "",
        "SMAC-1.0.0.dist-info/METADATA": _metadata("SMAC", "1.0.0"),
    }
    return written(site, files | {f"{name}/__init__.py": "" for name in libraries})


def automl(site):
    """AutoML's optimiser, which takes seconds to import and must not be."""
    files = {
        "smac/__init__.py": "raise RuntimeError('imported')\n",
        "smac/facade/__init__.py": "",
        "smac/facade/hyperparameter_optimization_facade.py": "",
        "smac/scenario.py": "class Scenario:\n    pass\n",
        "smac/main/__init__.py": "",
        "smac-2.4.1.dist-info/METADATA": _metadata("smac", "2.4.1"),
    }
    return written(site, files)


def game(folder, maps=("3m", "2s3z", "MMM"), builds=(69232, 75689)):
    """A game folder with files where the game has them."""
    files = {f"Versions/Base{build}/SC2_x64": "" for build in builds}
    files |= {f"Maps/SMAC_Maps/{name}.SC2Map": "" for name in maps}
    return written(folder, files)


@contextmanager
def playable(folder, env=STANDIN, maps=("3m", "2s3z", "MMM")):
    """Install package and game below ``folder`` for this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(starcraft(folder / "site", env)))
        patch.setenv("SC2PATH", str(game(folder / "game", maps)))
        yield folder
