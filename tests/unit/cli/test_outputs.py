"""One rule for every file that a command writes where the user says: what is there is kept."""

import shutil

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.testing.factories import tiny_dataset
from kd_offline.testing.reports import fabricate_run

pytestmark = pytest.mark.usefixtures("undrawn")

COMMANDS = {
    "report": "report run -o {file}",
    "report --markdown": "report run --markdown -o {file}",
    "inspect --html": "inspect d.zarr --html {file}",
    "card": "card d.zarr -o {file}",
    "croissant": "croissant d.zarr -o {file}",
    "sign": "sign d.zarr --key key -o {file}",
    "pack": "pack d.zarr -o {file}.zip",
    "push": "push d.zarr {file}.zip",
    "pull": "pull d.zarr -o {file}.zip",
    "convert": "convert d.zarr -o {file} --to hdf5",
}
DEFAULTS = {"sign": ("sign d.zarr --key key", "d.zarr.sig"), "pack": ("pack d.zarr", "d.zarr.zip")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    tiny_dataset(place / "d.zarr")
    fabricate_run(place / "run")
    key = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    (place / "key").write_bytes(key)
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, code):
    done = CliRunner().invoke(app, command.split(), prog_name="kd-offline")
    assert done.exit_code == code, done.output
    return done


def refused(command):
    done = run(command, 1)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def written(command, file):
    """Check the rule for a command that writes ``file``."""
    run(command, 0)
    made = file.read_bytes()
    file.write_text("mine")
    assert "--overwrite" in refused(command)
    assert file.read_text() == "mine"
    if not command.startswith("convert"):  # which replaces nothing but datasets
        run(f"{command} --overwrite", 0)
        assert len(file.read_bytes()) == len(made)
    file.unlink()
    file.mkdir()
    (file / "mine").write_text("mine")
    for words in (command, f"{command} --overwrite"):
        refused(words)
    assert (file / "mine").read_text() == "mine"
    shutil.rmtree(file)
    precious = file.with_name("precious")
    precious.write_text("mine")
    file.symlink_to(precious)
    for words in (command, f"{command} --overwrite"):
        refused(words)
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_named_file_that_exists_is_kept_unless_overwrite_is_given(place, name):
    file = place / ("new/out.zip" if "zip" in COMMANDS[name] else "new/out")
    written(COMMANDS[name].format(file="new/out"), file)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_file_beside_a_dataset_is_the_users(place, name):
    command, file = DEFAULTS[name]
    written(command, place / file)


def test_the_report_in_a_run_is_made_anew(place):
    run("report run", 0)
    page = (place / "run" / "report.html").read_bytes()
    (place / "run" / "report.html").write_text("of last week")
    run("report run", 0)
    assert (place / "run" / "report.html").read_bytes() == page


def test_a_calibration_is_refused_before_it_is_measured(place):
    (place / "mine.toml").write_text("mine")
    assert "--overwrite" in refused("doctor calibrate -o mine.toml --rounds 1000000000")
