"""Datasets from strangers: clear errors, no code, nothing outside, bounded memory and time."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kd_offline import errors
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.safe_open import list_files
from kd_offline.datasets.validation.integrity import verify
from tests.hostile.recipes import CASES, SECRET, Attack, base

SECONDS = 10
MEMORY_BYTES = 700 << 20

watched: dict[str, list[str]] = {"events": []}
watching = False


def _watch(event, arguments):
    """Note every file that is opened or listed, and whatever runs code."""
    if watching and event in ("open", "os.listdir", "os.scandir"):
        watched["events"].append(str(arguments[0]))
    elif watching and event in ("pickle.find_class", "subprocess.Popen", "os.system", "exec"):
        watched["events"].append(f"ran {event}")


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "d.zarr"
    base(path)
    return path


@pytest.fixture(scope="module")
def values(good):
    buffer = ExpertBuffer.open(good)
    return buffer.load(buffer.names)


def read_everything(path):
    buffer = ExpertBuffer.open(path)
    buffer.split("train"), [buffer.mask(name) for name in buffer.mask_names]
    return buffer.load(buffer.names)


def outcome(action, path):
    """Return what ``action`` gave, or the error that it raised on purpose; others come through."""
    try:
        return action(path)
    except errors.KdOfflineError as error:
        return error


def problems_of(result):
    """Return every reason that ``verify`` gives, by its report or by its error."""
    if isinstance(result, errors.KdOfflineError):
        return str(result)
    assert not result.ok
    return "\n".join(f"{problem.where}: {problem.what}" for problem in result.problems)


def files_below(folder):
    return {path: (folder / path).lstat().st_mtime_ns for path in list_files(folder)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_stranger_gains_nothing(case, good, values, tmp_path, request):
    global watching
    attack = Attack(good, tmp_path)
    request.addfinalizer(attack.flatten)
    path = attack.carry_out(case["steps"])
    before = files_below(tmp_path)
    watched["events"].clear()
    watching, began = True, time.process_time()
    try:
        read, checked = outcome(read_everything, path), outcome(verify, path)
    finally:
        watching = False
    assert time.process_time() - began < SECONDS
    assert files_below(tmp_path) == before, "something was written"
    assert not [event for event in watched["events"] if event.startswith("ran ")]
    # Resolving is slow in folders a thousand deep, which hold no links.
    opened = {event for event in watched["events"] if event[:1] == "/" and len(event) < 500}
    touched = {str(Path(event).resolve()) for event in opened}
    assert not [file for file in touched if file.startswith(str(attack.outside))]

    reasons = problems_of(checked)
    assert reasons.isprintable() or "\n" in reasons
    assert SECRET not in reasons
    assert case["reason"] in reasons
    if case.get("reads") == "same":
        assert all(np.array_equal(read[name], values[name]) for name in values)
    elif case.get("reads") != "changed":
        assert isinstance(read, getattr(errors, case.get("error", "CorruptDatasetError")))
        assert case["reason"] in str(read)
        assert len(str(read)) < 2000


def test_the_dataset_that_all_cases_begin_with_is_whole(good):
    assert verify(good).ok
    assert len({case["name"] for case in CASES}) == len(CASES) >= 60


PROGRAM = """
import json, resource, sys
from pathlib import Path
import kd_offline.errors, numpy
from kd_offline.datasets.validation.integrity import verify
from kd_offline.datasets.reading.reader import ExpertBuffer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def attempt(action, path):
    try:
        action(path)
    except kd_offline.errors.KdOfflineError:
        pass

def read(path):
    buffer = ExpertBuffer.open(path)
    buffer.load(buffer.names)

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
before = peak()
for path in sys.argv[2:]:
    attempt(verify, path)
    attempt(read, path)
    print(json.dumps({"path": path, "grown": peak() - before}), flush=True)
"""


def test_memory_stays_bounded(good, tmp_path):
    """All cases one after the other in one process; the peak over all of them is the measure."""
    paths = []
    for index, case in enumerate(CASES):
        place = tmp_path / str(index)
        place.mkdir()
        paths.append(str(Attack(good, place).carry_out(case["steps"])))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "", *paths],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown = [json.loads(line)["grown"] for line in done.stdout.splitlines()]
    assert len(grown) == len(CASES)
    names = [case["name"] for case in CASES]
    steps = [(b - a, name) for a, b, name in zip([0, *grown], grown, names, strict=False)]
    assert grown[-1] < MEMORY_BYTES, sorted(steps)[-3:]
