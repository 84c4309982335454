"""A command that was finished may be given again with resume: done already, and nothing changes."""

import pytest

from kd_offline import annotate, filter, merge, relabel_masks, split
from kd_offline.datasets import verify
from kd_offline.datasets.format.layout import JOURNAL
from kd_offline.errors import MismatchError, UsageError
from kd_offline.testing.factories import environment_spec, tiny_dataset

SPEC = environment_spec((6, 3, 5))

OPERATIONS = {
    "filter": (lambda d, out, where="length > 0", **more: filter(d, out, where, **more), "where"),
    "merge": (
        lambda d, out, name="m", **more: merge([d, d], out, name=name, duplicates="keep", **more),
        "name",
    ),
    "split": (lambda d, out, seed=3, **more: split(d, out, heldout=0.4, seed=seed, **more), "seed"),
    "annotate": (lambda d, out, name="new", **more: annotate(d, out, name=name, **more), "name"),
    "relabel-masks": (
        lambda d, out, masks=("random-2",), **more: relabel_masks(d, out, masks, **more),
        "masks",
    ),
}
OTHERS = {"where": "length > 1", "name": "other", "seed": 4, "masks": ("random-3",)}


@pytest.fixture
def parent(tmp_path):
    return tiny_dataset(tmp_path / "d.zarr", 10, spec=SPEC).path


def files(folder):
    every = sorted(folder.rglob("*"))
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in every if p.is_file()}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_finished_is_done_already(parent, tmp_path, name, caplog):
    make, setting = OPERATIONS[name]
    out = tmp_path / "out.zarr"
    first, before = make(parent, out, resume=True), files(out)  # begins where nothing is
    assert make(parent, out, resume=True) == first
    assert files(out) == before
    assert "out.zarr is complete already: nothing was done" in caplog.text
    (out / JOURNAL).write_text("left by a kill")
    assert make(parent, out, resume=True) == first
    assert files(out) == before
    assert verify(out).ok
    with pytest.raises(MismatchError, match=r"the finished dataset at .*out.zarr' was "):
        make(parent, out, resume=True, **{setting: OTHERS[setting]})
    assert files(out) == before


@pytest.mark.parametrize("name", OPERATIONS)
def test_something_foreign_is_left_alone(parent, tmp_path, name):
    out = tmp_path / "out.zarr"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty and holds no dataset"):
        OPERATIONS[name][0](parent, out, resume=True)
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_what_a_manifest_cannot_hold_is_refused_before_anything_is_copied(parent, tmp_path):
    with pytest.raises(UsageError, match=r"description is .*which a dataset cannot hold"):
        annotate(parent, tmp_path / "out.zarr", description="\x1b[2J")
    with pytest.raises(UsageError, match=r"name .* must be one line of printable text"):
        merge([parent, parent], tmp_path / "out.zarr", duplicates="keep", name="\x1b[2J")
    assert not (tmp_path / "out.zarr").exists()
