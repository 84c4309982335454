"""Flipped bits and cut ends in a sweep's files: refused, or nothing that is reported changes."""

import os
import shutil

import numpy as np
import pytest

pytest.importorskip("optuna")

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import KdOfflineError, StorageError
from kd_offline.schemas.sweep import SweepReport
from kd_offline.sealed_json import read_document
from kd_offline.sweeps.studies import JOURNAL, JournalStore
from kd_offline.sweeps.sweep import PLAN, REPORT, finish, sweep
from tests.sealing import resealed, unsealed
from tests.unit.sweeps.test_trials_workers import PLAN as SETTINGS
from tests.unit.sweeps.test_trials_workers import dataset  # noqa: F401

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no such locks there")
FLIPS = 40


@pytest.fixture(scope="module")
def done(dataset, tmp_path_factory):  # noqa: F811
    """A finished sweep, its dataset and what it reported."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    return folder, ExpertBuffer.open(dataset), sweep(dataset, folder, trials=2, **SETTINGS)


def altered(content, rng):
    """Yield contents with one bit flipped, and some that end too soon."""
    for bit in rng.integers(8 * len(content), size=FLIPS).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        yield f"bit {bit}", bytes(flipped)
    for end in rng.integers(len(content), size=8).tolist():
        yield f"end {end}", content[:end]


def test_points_are_those_that_were_measured_or_refused(done, undrawn, tmp_path):
    folder, buffer, report = done
    measured = {point.run: point.model_copy(update={"front": True}) for point in report.points}
    content, refused = (folder / JOURNAL).read_bytes(), 0
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    for what, data in altered(content, np.random.default_rng(3)):
        (place / JOURNAL).write_bytes(data)
        try:
            found = finish(JournalStore(place), place, buffer, str(buffer.where), report.plan)
        except KdOfflineError:
            refused += 1
            (place / REPORT).write_bytes((folder / REPORT).read_bytes())
            continue
        kept = {point.run: point.model_copy(update={"front": True}) for point in found.points}
        assert kept == measured, what
    assert refused > FLIPS // 4


@pytest.mark.parametrize("file", [PLAN, REPORT])
def test_a_plan_and_a_report_are_whole_or_refused(file, done, tmp_path):
    folder, _, report = done
    wanted = read_document(type(report.plan) if file == PLAN else SweepReport, folder / file, "")
    copy = tmp_path / file
    for what, data in altered((folder / file).read_bytes(), np.random.default_rng(4)):
        copy.write_bytes(data)
        with pytest.raises(KdOfflineError):
            pytest.fail(f"{what}: {read_document(type(wanted), copy, 'begin again') == wanted}")


@pytest.mark.filterwarnings("ignore::kd_offline.errors.UnsealedWarning")
@pytest.mark.parametrize(("version", "rewrite"), [([1, 1], resealed), ([1, 0], unsealed)])
def test_a_sweep_that_an_older_version_began_is_refused_and_kept(done, tmp_path, version, rewrite):
    folder, buffer, _ = done
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    rewrite(place / PLAN, version=version)
    kept = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    words = "copy' was begun by an older version of kd-offline, whose trials this one does not"
    with pytest.raises(StorageError, match=words):
        sweep(buffer.where, place, trials=4, **SETTINGS)
    assert {file: file.read_bytes() for file in place.rglob("*") if file.is_file()} == kept


def test_a_sweep_that_a_newer_version_began_is_refused(done, tmp_path):
    folder, buffer, _ = done
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    resealed(place / PLAN, version=[9, 0])
    with pytest.raises(KdOfflineError, match=r"9\.0"):
        sweep(buffer.where, place, trials=4, **SETTINGS)
