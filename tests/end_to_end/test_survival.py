"""What was committed survives: kills at any instant, full disks, read-only folders, two writers."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from numcodecs.zstd import Zstd

from kd_offline.datasets.format import layout
from kd_offline.datasets.reading.reader import ExpertBuffer
from tests.end_to_end.conftest import SPREAD, kd, kd_json

KILLS = 18
RECORD = ["record", SPREAD, "--expert", "bundled:mlp", "--partner", "none", "--mask", "limited"]
RECORD += ["--episodes", "40", "--batch", "8", "--threads", "1", "-q"]


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """The same recording, undisturbed."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    code, words = forks(*RECORD, "-o", path, watch=str(path))
    assert code == 0, words
    (path.parent / "events").write_text(str(forks.events))
    return ExpertBuffer.open(path)


def events(whole):
    """Return how much happens to the files of one recording."""
    return int((whole.path.parent / "events").read_text())


def kept(path):
    """Return how many episodes the journal promises, after holding every one against the files."""
    file = path / "recording.json"
    if not file.is_file():
        return 0, {}
    journal = json.loads(file.read_text())
    arrays = {}
    for name, row in journal["arrays"].items():
        steps = name.startswith("steps/")
        rows = journal["rows" if steps else "episodes"]
        per_chunk = journal["step_chunk_rows" if steps else "episode_chunk_rows"]
        parts = [
            np.frombuffer(Zstd().decode((path / file).read_bytes()), row["dtype"])
            for index in range(layout.chunk_count(rows, per_chunk))
            for file in [layout.chunk_path(name, index, 1 + len(row["tail"]))]
        ]
        values = np.concatenate(parts or [np.empty(0, row["dtype"])])
        arrays[name] = values.reshape(-1, *row["tail"])[:rows]
        assert len(arrays[name]) == rows
    return journal["episodes"], arrays


def check_state(path, whole, before):
    """Check that nothing was lost since ``before``, and that one sentence tells the state."""
    if (path / "manifest.json").exists():
        assert kd_json("verify", path)["ok"]
        assert kd_json("inspect", path)["id"] == whole.id
        return whole.n_episodes
    episodes, arrays = kept(path)
    assert episodes >= before
    for name, values in arrays.items():
        assert np.array_equal(values, whole.read(name, 0, len(values))), name
    hints = ["--resume"] if (path / "recording.json").exists() else ["record one", "record made"]
    for command in ("inspect", "verify"):
        done = kd(command, path, code=1 if path.exists() else 2)
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert any(hint in done.stderr for hint in hints)
    return episodes


def test_sigkill_at_random_instants(forks, whole, tmp_path):
    """Kills hit one recording after another, each continued again and again until it is done."""
    rng = random.Random(0)
    kills, datasets, kept_at = 0, 0, []
    while kills < KILLS:
        path = tmp_path / f"{datasets}.zarr"
        before = 0
        resume: list[str] = []
        while True:
            if kills % 3 == 2:
                instant: dict = {"kill_after": rng.uniform(0.05, 0.35)}
            else:
                last = events(whole) // (2 if resume else 1)  # there is less left to do
                instant = {"watch": str(path), "kill_at": rng.randint(1, last)}
            code, words = forks(*RECORD, "-o", path, *resume, **instant)
            if code == 0:
                break
            assert code == -signal.SIGKILL, words
            kills += 1
            before = check_state(path, whole, before)
            kept_at.append(before)
            if (path / "manifest.json").exists():  # killed between the manifest and the clean-up
                code, words = forks(*RECORD, "-o", path, "--resume")
                assert (code, "complete already" in words) == (0, True)
                break
            resume = ["--resume"]
        check_same(path, whole)
        shutil.rmtree(path)
        datasets += 1
    assert len(set(kept_at)) >= 3


def check_same(path, whole):
    stored = ExpertBuffer.open(path)
    assert stored.id == whole.id
    assert stored.manifest.files == whole.manifest.files
    assert kd_json("verify", path)["ok"]


@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_sigkill_around_the_manifest(forks, whole, tmp_path, left):
    """The last things that happen: its file aside, the renaming, the clean-up."""
    path = tmp_path / "d.zarr"
    at = events(whole) - left + 1
    assert forks(*RECORD, "-o", path, watch=str(path), kill_at=at)[0] == -signal.SIGKILL
    before = check_state(path, whole, 0)
    assert before == whole.n_episodes
    if not (path / "manifest.json").exists():
        assert forks(*RECORD, "-o", path, "--resume")[0] == 0
    check_same(path, whole)


@contextmanager
def mounted(folder, size):
    """A small file system of its own at ``folder``."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder, options):
    command = ["mount", "-o", f"remount,{options}", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def told(code, words, *parts):
    """Check that a command failed with one sentence that has all these parts."""
    assert code == 1
    assert words.startswith("error: ")
    assert words.count("\n") == 1
    for part in parts:
        assert part in words


@pytest.mark.parametrize("size", ["64k", "700k"])
def test_full_disk(forks, whole, tmp_path, size):
    disk = tmp_path / "disk"
    with mounted(disk, size):
        path = disk / "d.zarr"
        code, words = forks(*RECORD, "-o", path)
        told(code, words, "No space left on device", "make room", "--resume")
        episodes = check_state(path, whole, 0)
        code, words = forks(*RECORD, "-o", path, "--resume")  # no room was made
        told(code, words, "No space left on device")
        assert check_state(path, whole, episodes) >= episodes
        remount(disk, "size=64m")
        code, words = forks(*RECORD, "-o", path, "--resume")
        assert code == 0, words
        check_same(path, whole)


def test_read_only_folder(forks, whole, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "64m"):
        path, begun = disk / "d.zarr", disk / "begun.zarr"
        shutil.copytree(whole.path, path)
        assert forks(*RECORD, "-o", begun, watch=str(begun), kill_at=300)[0] == -signal.SIGKILL
        before = check_state(begun, whole, 0)
        remount(disk, "ro")
        check_same(path, whole)  # reading writes nothing
        assert check_state(begun, whole, before) == before
        for where, option in [(begun, "--resume"), (path, "--overwrite"), (disk / "new", "-q")]:
            told(*forks(*RECORD, "-o", where, option), "Read-only file system", str(where))
        remount(disk, "rw")
        assert forks(*RECORD, "-o", begun, "--resume")[0] == 0
        check_same(begun, whole)
        check_same(path, whole)


STOPS = """
import os, signal, sys
from kd_offline.cli.app import app
from kd_offline.tracking.progress_bar import ProgressBar

def stop(self, done, total, unit):
    if done == 16:
        os.kill(os.getpid(), signal.SIGSTOP)

ProgressBar.progress = stop
app([*COMMAND, "-o", sys.argv[1]], prog_name="kd-offline")
""".replace("COMMAND", str(RECORD[:-1]))  # not -q, which shows no progress


def test_two_writers(forks, whole, tmp_path):
    """The second one is refused while the first one, stopped in the middle, holds the folder."""
    path = tmp_path / "d.zarr"
    with subprocess.Popen([sys.executable, "-c", STOPS, str(path)]) as first:
        os.waitpid(first.pid, os.WUNTRACED)  # it is stopped, not ended
        for option in ("--resume", "--overwrite"):
            told(*forks(*RECORD, "-o", path, option), "another process is recording", str(path))
        first.send_signal(signal.SIGCONT)
    assert first.returncode == 0
    assert ExpertBuffer.open(path).id == whole.id
    code, words = forks(*RECORD, "-o", path, "--resume")
    assert (code, "complete already" in words) == (0, True)
    assert kd_json("verify", path)["ok"]
