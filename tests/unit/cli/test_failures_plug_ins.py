"""Help lists the parts of installed packages, and imports none of them."""

import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.cli.failures import TAKEN

GROUPS = {
    "terms": ("loss term", ["distill", "sweep"]),
    "algorithms": ("algorithm", ["train"]),
    "students": ("student family", ["distill", "sweep"]),
    "observers": ("tracker", ["train", "record", "distill", "sweep", "evaluate"]),
    "environments": ("environment", ["train", "record", "envs"]),
    "executors": ("executor", ["train", "record", "distill", "sweep", "evaluate"]),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package that offers one part of each kind, none of which can be imported."""
    info = tmp_path / "more_parts-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more-parts\nVersion: 1.5\n")
    lines = [f"[kd_offline.{group}]\nmy-{group} = more_parts:x" for group in GROUPS]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("command", TAKEN)
def test_a_command_lists_the_parts_that_it_takes_with_their_packages(package, command):
    done = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    for group, (kind, commands) in GROUPS.items():
        shown = f"my-{group} {kind} of more-parts 1.5" in text
        assert shown == (command in commands)
    assert "more_parts" not in sys.modules


def test_a_term_whose_name_makes_no_option_stops_no_command(package, tmp_path):
    command = [sys.executable, "-m", "kd_offline", "distill", "--help"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environ = os.environ | {"PYTHONPATH": path, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    assert "my-terms" in done.stdout
    assert "--my-terms-weight" not in done.stdout


def test_without_plug_ins_nothing_is_listed():
    assert "installed packages" not in CliRunner().invoke(app, ["distill", "--help"]).output


def test_every_command_of_the_table_exists():
    assert typer.main.get_command(app).commands.keys() >= TAKEN.keys()  # type: ignore[attr-defined]
