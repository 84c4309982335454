"""An environment of another package, installed by pip: every command, and where it is missing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd_offline import ExpertBuffer, distill, distill_recipe, environments, evaluate, record, replay
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.runs.folder import open_run
from kd_offline.testing.environments import check_environment
from tests.end_to_end.conftest import ONE_AFTER_THE_OTHER

ROOT = Path(__file__).parents[2]
PACKAGE = "kd-offline-example-plugin"
PART = {"kind": "environment", "name": "ring", "package": PACKAGE, "version": "0.1.0"}
SMALL = {"optimisation.epochs": 1, "optimisation.batch_episodes": 4, "student.hidden": 4}


@pytest.fixture(scope="module")
def folder(installed_plugins, tmp_path_factory):
    """Train, record, distil and evaluate by the command line; return the folder of it all."""
    folder = tmp_path_factory.mktemp("ring")
    path = os.pathsep.join([str(installed_plugins), os.environ.get("PYTHONPATH", "")])
    given = {"cwd": folder, "env": os.environ | {"PYTHONPATH": path}, "check": False}
    commands = (
        "train ring -o walkers --env size=9 --frames 200 --score 0 --threads 1 -q",
        "record ring -o ring.zarr --env size=9 --expert walkers --episodes 40 --threads 1 -q",
        "verify ring.zarr --replay 5 -q",
        "distill ring.zarr -o run --method kl --epochs 1 --hidden 4 -q "
        "--set optimisation.batch_episodes=4",
        "evaluate run --expert walkers --episodes 20 --threads 1 -q",
    )
    several = [sys.executable, "-c", ONE_AFTER_THE_OTHER, *commands]
    done = subprocess.run(several, capture_output=True, text=True, **given)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def uninstalled(plugins, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(plugins)])


def test_it_keeps_the_protocol_and_the_page_shows_its_file(plugins):
    check_environment(lambda: environments.load("ring"))
    check_environment(lambda: environments.load("ring", size=4, episode_limit=5))
    page = (ROOT / "docs" / "guide" / "extending.md").read_text("utf-8")
    source = ROOT / "tests" / "plugins"
    blocks = re.findall(r"```\w*\n(.*?)```", page, re.DOTALL)
    assert (source / "kd_offline_example_plugin" / "ring.py").read_text("utf-8") in blocks
    entry = next(
        block for block in blocks if "kd_offline.environments" in block and "ring =" in block
    )
    assert entry in (source / "pyproject.toml").read_text("utf-8")


def test_it_is_listed_with_its_package_and_not_imported_for_that(plugins):
    assert environments.names()["ring"] == f"of {PACKAGE} 0.1.0"
    code = "import sys; from kd_offline.environments import names; names()"
    code += "; print('kd_offline_example_plugin' in sys.modules, 'ring' in names())"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(plugins), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.split() == ["False", "True"]


def test_settings_are_checked_by_its_signature(plugins):
    world: BatchedEnvironment = environments.load("ring", size=9)
    assert world.spec.kwargs == {"size": 9, "episode_limit": 12}
    with pytest.raises(UnknownNameError, match=r"unknown setting of ring 'sise'.*mean 'size'"):
        environments.load("ring", sise=9)


def test_every_file_names_its_package_and_version(folder):
    manifest = ExpertBuffer.open(folder / "ring.zarr").manifest
    assert [part.model_dump() for part in manifest.environment_parts] == [PART]
    assert manifest.recording.software[PACKAGE] == "0.1.0"
    assert manifest.environment.kwargs == {"size": 9, "episode_limit": 12}
    assert [part.model_dump() for part in open_run(folder / "run").manifest().parts] == [PART]
    assert json.loads((folder / "walkers" / "expert.json").read_text())["parts"] == [PART]
    assert (folder / "run" / "evaluation.json").is_file()


def test_the_id_does_not_depend_on_the_version_of_the_package(plugins, folder, tmp_path):
    again = record(
        *("ring", tmp_path / "again.zarr"),
        environment_kwargs={"size": 9},
        expert=folder / "walkers",
        episodes=40,
        threads=1,
    )
    assert again.id == ExpertBuffer.open(folder / "ring.zarr").manifest.id


def test_distillation_needs_no_environment(folder, uninstalled, tmp_path):
    recipe = distill_recipe(method="kl", settings=SMALL)
    done = distill(folder / "ring.zarr", tmp_path / "run", recipe)
    assert [part.model_dump() for part in done.parts] == [PART]


def test_where_it_is_not_installed_its_package_is_named(folder, uninstalled):
    words = rf"unknown environment 'ring'.* names it, from the package '{PACKAGE} 0\.1\.0': install"
    with pytest.raises(UnknownNameError, match=words):
        evaluate(folder / "run", expert=folder / "walkers", episodes=4)
    with pytest.raises(UsageError, match=words):
        replay(folder / "ring.zarr", 2)
    with pytest.raises(UnknownNameError, match="unknown environment 'ring': allowed are mpe/"):
        environments.load("ring")
