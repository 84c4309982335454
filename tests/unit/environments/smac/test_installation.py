"""The states that an installation can be in, each made of real folders on Python's path."""

import sys

import pytest
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.environments import load
from kd_offline.environments.smac.installation import look
from kd_offline.errors import UsageError
from kd_offline.runs.doctor import examine
from tests.standins import installations


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder on the path, and a game folder that does not exist."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    return tmp_path


def refused(map_name="3m"):
    """Return what the adapter says; it must say what the doctor says."""
    with pytest.raises(UsageError) as caught:
        load(f"smac/{map_name}")
    assert look().detail in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_is_installed(place):
    found = look()
    assert (found.state, found.package, found.game) == ("nothing", None, None)
    assert "pip install git+https://github.com/oxwhirl/smac.git" in refused()
    assert "AutoML" in refused()


def test_automl_is_installed_instead(place):
    installations.automl(place / "site")
    found = look()
    assert (found.state, found.version) == ("automl", "2.4.1")
    assert found.package == str(place / "site" / "smac")
    assert "AutoML's optimiser SMAC3 (it has smac.facade and no smac.env)" in refused()
    assert "pip uninstall smac" in refused()
    assert "smac" not in sys.modules


def test_something_else_of_that_name_is_installed(place):
    installations.written(place / "site", {"smac.py": "raise RuntimeError\n"})
    assert look().state == "foreign"
    assert "another one (it has no smac.env)" in refused()


def test_the_package_lacks_its_libraries(place):
    installations.starcraft(place / "site", libraries=("absl",))
    installations.game(place / "game")
    assert look().state == "no_library"
    assert "pip install pysc2 s2clientprotocol" in refused()


@pytest.mark.parametrize(
    ("builds", "maps", "said"),
    [
        (None, None, "without the game: none is in"),
        ((), ("3m",), "without the game: none is in"),
        ((75689,), (), "without its maps: unpack SMAC_Maps.zip into"),
    ],
)
def test_the_package_lacks_the_game(place, builds, maps, said):
    installations.starcraft(place / "site")
    if builds is not None:
        installations.game(place / "game", maps, builds)
    assert look().state == "no_game"
    assert said in refused()
    assert str(place / "game") in refused()


def test_all_is_there(place):
    installations.starcraft(place / "site")
    installations.game(place / "game")
    found = look()
    assert (found.state, found.version, found.builds) == ("ready", "1.0.0", (69232, 75689))
    assert found.maps == ("2s3z", "3m", "MMM")
    assert "3 of its maps" in found.detail
    assert "smac" not in sys.modules
    load("smac/3m").close()
    assert "smac" not in sys.modules  # it lives in the games' processes alone


def test_without_a_path_the_usual_place_is_looked_at(place, monkeypatch):
    monkeypatch.delenv("SC2PATH")
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setattr(sys, "platform", "linux")
    installations.starcraft(place / "site")
    installations.game(place / "StarCraftII")
    assert look().state == "ready"


def test_doctor_says_it(place):
    installations.automl(place / "site")
    assert examine().starcraft == look()
    done = CliRunner().invoke(app, ["doctor"])
    assert look().detail in done.stdout
