"""A read-only place: every command that writes says so in one sentence, with exit code 1."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.conftest import kd, refused

ROOT = Path(__file__).parents[2]
TINY = ROOT / "datasets" / "tiny-spread" / "dataset.zarr"


@contextmanager
def read_only(place):
    """Make what is at ``place`` read-only: a file system of its own, or a folder without rights."""
    staged = place.with_name("staged")
    place.rename(staged)
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
    if shutil.which("mount") and not subprocess.run(mount, capture_output=True).returncode:
        try:
            shutil.copytree(staged, place, dirs_exist_ok=True)
            again = ["mount", "-o", "remount,ro", str(place)]
            subprocess.run(again, check=True, capture_output=True)
            yield "Read-only file system"
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        return
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("neither a file system can be mounted here nor rights be taken away")
    shutil.copytree(staged, place, dirs_exist_ok=True)
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield "Permission denied"
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A dataset, a run and a key in a place that cannot be written any more."""
    place = tmp_path_factory.mktemp("read only") / "disk"
    shutil.copytree(TINY, place / "d.zarr")
    kd(
        *("distill", place / "d.zarr", "-o", place / "run", "--method", "kl", "--epochs", 1),
        *("--hidden", 4, "--threads", 1, "--mask", "limited", "--seeds", 1),
    )
    key = place.with_name("key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with read_only(place) as reason:
        yield place, key, reason


COMMANDS = {
    "evaluate": ("evaluate", "{run}", "--episodes", 4, "--threads", 1),
    "report": ("report", "{run}"),
    "bench": ("bench", "latency", "{run}", "--engines", "numpy", "--rounds", 1, "--steps", 2),
    "rerun": ("rerun", "{run}", "--dataset", "{data}", "-o", "{disk}/again"),
    "export": ("export", "{run}", "--dataset", "{data}", "-o", "{disk}/out", "--to", "torch"),
    "sign": ("sign", "{data}", "--key", "{key}"),
    "card": ("card", "{data}", "-o", "{disk}/card.md"),
    "inspect": ("inspect", "{data}", "--html", "{disk}/page.html"),
    "croissant": ("croissant", "{data}", "-o", "{disk}/c.json"),
    "pack": ("pack", "{data}", "-o", "{disk}/d.zip"),
    "annotate": ("annotate", "{data}", "-o", "{disk}/a.zarr", "--licence", "MIT"),
    "split": ("split", "{data}", "-o", "{disk}/s.zarr", "--heldout", 0.5),
    "convert": ("convert", "{data}", "-o", "{disk}/d.h5", "--to", "hdf5"),
    "sweep": ("sweep", "{data}", "-o", "{disk}/sweep", "--trials", 1, "--judge", "agreement"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_cannot_write_says_so_in_one_sentence(command, locked):
    disk, key, reason = locked
    names = {"run": disk / "run", "data": disk / "d.zarr", "disk": disk, "key": key}
    words = [str(word).format(**names) for word in COMMANDS[command]]
    said = refused(*words, code=1)
    assert reason in said
    assert str(disk) in said


@pytest.mark.parametrize(
    "command", [("verify", "d.zarr"), ("inspect", "d.zarr"), ("card", "d.zarr")]
)
def test_what_only_reads_works_there(command, locked):
    kd(command[0], locked[0] / command[1])
