"""A run folder of a stranger, in which everything that is written may be a link."""

import os
from contextlib import suppress

import pytest

from kd_offline.errors import StorageError
from kd_offline.reports.html import report
from kd_offline.runs.folder import RunFolder, create_run
from kd_offline.testing.reports import evaluation_report, fabricate_run, metric_rows, run_manifest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no such links there")

WRITES = {
    "run.json": lambda run: run.write_manifest(run_manifest()),
    "evaluation.json": lambda run: run.write_evaluation(evaluation_report()),
    "metrics.jsonl": lambda run: run.append_metrics(metric_rows()),
    "report.html": lambda run: report(run.path),
    "resume": lambda run: create_run(run.path, run_manifest(), overwrite=True),
}


@pytest.mark.parametrize("kind", ["soft", "hard", "of a folder"])
@pytest.mark.parametrize("name", WRITES)
def test_what_a_link_in_a_run_leads_to_stays_as_it_is(tmp_path, name, kind):
    run = fabricate_run(tmp_path / "run")
    home = tmp_path / "home"
    home.mkdir()
    victim = home / name
    before = (run.path / name).read_bytes() if (run.path / name).is_file() else b"mine"
    victim.write_bytes(before)
    (run.path / name).unlink(missing_ok=True)
    if kind == "hard":
        (run.path / name).hardlink_to(victim)
    else:
        (run.path / name).symlink_to(home if kind == "of a folder" else victim)
    with suppress(StorageError):
        WRITES[name](RunFolder(run.path))
    assert [path.name for path in home.iterdir()] == [name]
    assert victim.read_bytes() == before


def test_a_run_that_is_a_link_is_emptied_and_stays_a_link(tmp_path):
    real = fabricate_run(tmp_path / "real").path
    (tmp_path / "link").symlink_to(real)
    (real / "folder").symlink_to(tmp_path)
    create_run(tmp_path / "link", run_manifest(), overwrite=True)
    assert (tmp_path / "link").readlink() == real
    assert [path.name for path in real.iterdir()] == ["run.json"]
