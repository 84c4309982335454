"""Copies of some arrays are datasets of their own."""

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.datasets.sharing.share import pull
from kd_offline.errors import (
    UnknownNameError,
)
from kd_offline.testing.factories import environment_spec, tiny_dataset
from kd_offline.tracking.base import FunctionObserver

TRAINING = ["steps/logits", "steps/actions", "steps/obs"]


def test_a_pull_of_some_arrays_fetches_nothing_else(served, web, whole, tmp_path):
    told: list[str] = []
    watching = FunctionObserver(message=told.append)
    wanted = ["logits", "actions", "obs"]
    done = pull(served, tmp_path / "d.zarr", arrays=wanted, observers=[watching])
    part = ExpertBuffer.open(tmp_path / "d.zarr")
    assert done.bytes_moved == web.sent()
    fetched = {
        path.partition("/c/")[0].removesuffix("/zarr.json") for path in web.fetched("d.zarr")
    }
    groups = {"manifest.json", "zarr.json", "steps", "episodes", "masks"}
    assert fetched == groups | set(part.names)
    left_out = set(whole.names) - set(part.names)
    assert left_out >= {"steps/embedding", "steps/value", "final/obs", "final/value"}
    assert "steps/reward" in told[0]
    assert "steps/logits" not in told[0]


def test_a_part_is_a_dataset_with_the_values_of_the_whole(served, whole, tmp_path):
    done = pull(served, tmp_path / "d.zarr", arrays=TRAINING)
    part = ExpertBuffer.open(tmp_path / "d.zarr")
    assert verify(part.path).ok
    for name in part.names:
        assert np.array_equal(part.read(name), whole.read(name))
        assert part.manifest.arrays[name] == whole.manifest.arrays[name]
    assert done.id == part.id != whole.id
    step = part.manifest.lineage[-1]
    assert (step.operation, step.parents) == ("arrays", (whole.id,))
    assert step.arguments == {"arrays": list(part.names)}
    for same in ("experts", "recording", "splits", "masks", "licence", "citation", "environment"):
        assert getattr(part.manifest, same) == getattr(whole.manifest, same)
    assert set(part.manifest.statistics.values) < set(whole.manifest.statistics.values)


def test_the_same_part_has_the_same_bytes(served, whole, tmp_path):
    pull(served, tmp_path / "a.zarr", arrays=["obs", "logits"])
    pull(whole.path, tmp_path / "b.zarr", arrays=["steps/logits"])
    pull(tmp_path / "a.zarr", tmp_path / "c.zarr", arrays=whole.names[:0])
    assert (tmp_path / "a.zarr/manifest.json").read_bytes() == (
        tmp_path / "b.zarr/manifest.json"
    ).read_bytes()
    assert not ExpertBuffer.open(tmp_path / "c.zarr").has("steps/logits")


def test_all_arrays_are_the_whole_dataset(whole, tmp_path):
    done = pull(whole.path, tmp_path / "d.zarr", arrays=whole.names)
    assert done.id == whole.id


def test_an_unknown_array_is_named_with_the_known_ones(served, tmp_path):
    with pytest.raises(UnknownNameError, match=r"'logit'.*did you mean 'logits'"):
        pull(served, tmp_path / "d.zarr", arrays=["logit"])
    assert not (tmp_path / "d.zarr").exists()


def test_a_part_describes_full_observations_only_where_it_has_them(tmp_path):
    spec = environment_spec((4, 3), (3, 2), full_widths=(5, 9))
    tiny_dataset(tmp_path / "whole.zarr", spec=spec)
    for names, described in ((["obs", "actions"], None), (["obs_full"], spec.full)):
        target = tmp_path / f"{names[0]}.zarr"
        pull(str(tmp_path / "whole.zarr"), target, arrays=names)
        assert verify(target).ok
        assert ExpertBuffer.open(target).spec.full == described
