"""``convert`` on the command line, and what can be done with an imported dataset."""

import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from kd_offline.testing.factories import tiny_dataset
from tests.documents import check_document
from tests.end_to_end.conftest import kd, kd_json, refused
from tests.unit.datasets.convert.vault.vaults import leaves, write_vault


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A vault of somebody else as an expert buffer: no logits, no values."""
    folder = tmp_path_factory.mktemp("imported")
    write_vault(folder / "3m.vlt" / "Good", leaves(steps=200))
    document = kd_json("convert", folder / "3m.vlt", "-o", folder / "3m.zarr", "--name", "smac/3m")
    return folder / "3m.zarr", document


def test_the_document_is_the_published_one(made, tmp_path, imported):
    there = kd_json("convert", made.dataset, "-o", tmp_path / "x.h5", "--to", "d4rl")
    for document in (there, imported[1]):
        check_document(document, "convert-output")
    assert (there["from"], there["to"]) == ("expert-buffer", "d4rl")
    assert {"array": "manifest", "why": there["not_held"][-1]["why"]} == there["not_held"][-1]
    assert imported[1]["notes"] == [
        "truncations are never true: ends by a time limit look as terminations"
    ]


def test_a_recording_there_and_back(made, tmp_path):
    for name in ("x.hdf5", "x.vlt", "x-v0"):
        there = kd_json("convert", made.dataset, "-o", tmp_path / name, "--strict")
        back = kd_json("convert", tmp_path / name, "-o", tmp_path / f"{name}.zarr", "--strict")
        assert there["id"] == back["id"] == kd_json("inspect", made.dataset)["id"]
        assert kd_json("verify", tmp_path / f"{name}.zarr")["ok"]


def test_losses_are_told_on_stderr(made, tmp_path):
    done = kd(
        "convert", made.dataset, "-o", tmp_path / "x.h5", "--to", "d4rl", "--agent", "agent_0"
    )
    assert done.stdout == f"{tmp_path / 'x.h5'}\n"
    for words in ("not held: episodes/seed (", "not held: agent agent_1 (", "not held: manifest ("):
        assert words in done.stderr
    sentence = refused(
        *("convert", made.dataset, "-o", tmp_path / "y.h5", "--to", "d4rl", "--strict"), code=2
    )
    assert "episodes/seed" in sentence


def test_an_environment_gives_names_and_blocks(made, tmp_path):
    """A file that says nothing of itself, from an environment that the user knows."""
    kd("convert", made.dataset, "-o", tmp_path / "x.h5", "--to", "d4rl")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["metadata"], file["infos"]
    source = ("convert", tmp_path / "x.h5", "-o", tmp_path / "y.zarr")
    assert "which features are whose" in refused(*source, code=1)
    kd(*source, "--environment", "mpe/simple_spread_v3")
    assert kd_json("inspect", tmp_path / "y.zarr")["environment"] == "mpe/simple_spread_v3"
    assert kd_json("verify", tmp_path / "y.zarr")["ok"]
    again = ("convert", tmp_path / "x.h5", "-o", tmp_path / "z.zarr", "--environment")
    assert "agents" in refused(*again, "mpe/simple_spread_v3", "--env", "n_agents=4", code=2)
    assert "unknown environment" in refused(*again, "mpe/simple", code=2)
    assert "give --environment" in refused(*source, "--env", "n_agents=3", "--overwrite", code=2)


def test_cloning_takes_what_has_no_logits(imported, tmp_path):
    run = tmp_path / "run"
    train = ("--hidden", "8", "--epochs", "1", "--batch", "8", "--threads", "1", "--seeds", "1")
    kd("distill", imported[0], "-o", run, "--method", "bc", *train)
    assert (run / "run.json").exists()
    for method in ("kl", "bc-argmax", "kd-marl"):
        command = ("distill", imported[0], "-o", tmp_path / method, "--method", method, *train)
        sentence = refused(*command, code=2)
        assert "steps/logits" in sentence
        assert "choose the method bc" in sentence


FAILURES = {
    "nothing": (["none.zarr"], 2, "does not exist"),
    "no target": (["3m.zarr"], 2, "give --to"),
    "kind": (["3m.zarr", "--to", "rlds"], 2, "unknown format 'rlds'"),
    "from": (["3m.zarr", "--from", "vault", "--to", "expert-buffer"], 1, "it is no vault"),
    "two": (["3m.vlt", "--environment", "a", "--spec", "b"], 2, "say the same"),
    "spec": (["3m.vlt", "--spec", "none.json"], 2, "cannot be read"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_bad_input_is_one_sentence(imported, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for part in ("3m.zarr", "3m.vlt"):
        shutil.copytree(imported[0].parent / part, part)
    arguments, code, words = FAILURES[name]
    assert words in refused("convert", *arguments, "-o", "x", code=code)
    assert not (tmp_path / "x").exists()


def test_a_damaged_source_is_one_sentence(imported, tmp_path):
    shutil.copytree(imported[0], tmp_path / "a.zarr")
    chunk = next((tmp_path / "a.zarr" / "steps" / "obs" / "c").rglob("0"))
    while chunk.is_dir():
        chunk = next(chunk.iterdir())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    sentence = refused("convert", tmp_path / "a.zarr", "-o", tmp_path / "x.hdf5", code=1)
    assert "steps/obs rows" in sentence
    assert not (tmp_path / "x.hdf5").exists()


# Sends this process Ctrl-C when it has written a hundred arrays: whoever watched from outside could
# come too late.
_INTERRUPTED = """
import os, signal, sys
import h5py
from kd_offline.cli.app import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told to ignore it
create, written = h5py.Group.create_dataset, []

def create_dataset(group, *given, **named):
    written.append(group.name)
    if len(written) == 100:
        os.kill(os.getpid(), signal.SIGINT)
    return create(group, *given, **named)

h5py.Group.create_dataset = create_dataset
main()
"""


def test_ctrl_c_leaves_nothing(tmp_path):
    """A real process, a real signal, in the middle of the writing."""
    tiny_dataset(tmp_path / "a.zarr", 100)
    command = [sys.executable, "-c", _INTERRUPTED, "convert", tmp_path / "a.zarr"]
    done = subprocess.run(
        [*command, "-o", tmp_path / "out-v0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "interrupted; nothing was written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_the_python_api_is_the_command(imported, tmp_path):
    import kd_offline

    done = kd_offline.convert(imported[0], tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5") as file:
        text = bytes(np.asarray(file["manifest"][()]))
        assert json.loads(text)["id"] == done.id == imported[1]["id"]
        assert file["steps/obs"].attrs["axes"] == "R N O"


_FULL = """
import resource, sys
from pathlib import Path
import kd_offline
from kd_offline.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
place = Path(sys.argv[1])
one = {"agent": "agent_0"}
for name, options in {
    "a.hdf5": {}, "b.hdf5": {"to": "d4rl", **one}, "c.h5": {"to": "d3rlpy", **one},
    "d-v0": {}, "e.vlt/Expert": {}, "f.zarr.zip": None,
}.items():
    try:
        if options is None:
            kd_offline.pack(place / "a.zarr", place / name)
        else:
            kd_offline.convert(place / "a.zarr", place / name, **options)
    except StorageError as error:
        print(error)
"""


def test_a_full_disk_is_one_sentence_in_every_format(tmp_path):
    """A real limit of the system: the libraries below break down where a write fails."""
    tiny_dataset(tmp_path / "a.zarr", 300)
    done = subprocess.run(
        [sys.executable, "-c", _FULL, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = ("a.hdf5", "b.hdf5", "c.h5", "d-v0", "Expert", "f.zarr.zip")
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(f"cannot write '{tmp_path}"), line
        assert f"/{name}" in line
        assert ".partial" not in line
        assert line.endswith("File too large; free space or give another path")
    assert {path.name for path in tmp_path.iterdir()} == {"a.zarr", "e.vlt"}
