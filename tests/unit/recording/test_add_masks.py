import numpy as np
import pytest

from kd_offline import relabel_masks
from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.errors import MismatchError, MissingArrayError, UnknownNameError, UsageError
from kd_offline.students.masks import resolve
from kd_offline.testing.factories import environment_spec, tiny_dataset

SPEC = environment_spec((6, 3, 5))


@pytest.fixture
def parent(tmp_path):
    return tiny_dataset(tmp_path / "d.zarr", 10, spec=SPEC)


def test_masks_are_added_and_nothing_else_changes(parent, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('description = "own"\n[agents]\nagent_0 = ["own"]\nagent_1 = []\nagent_2 = []')
    manifest = relabel_masks(parent.path, tmp_path / "r.zarr", [str(mine), "random-2", "random-k"])
    assert verify(tmp_path / "r.zarr").ok
    made = ExpertBuffer.open(tmp_path / "r.zarr")
    assert set(made.mask_names) == {"full", "mine", "random-2", "random-k"}
    for name in parent.names:
        assert manifest.arrays[name] == parent.manifest.arrays[name]
    assert made.mask("mine")[0].tolist() == [True] * 3 + [False] * 3
    assert manifest.masks["mine"].description == "own"
    assert manifest.masks["random-2"].random_k == 2
    seeds = parent.episodes("seed")
    for name in ("random-2", "random-k"):
        assert np.array_equal(made.mask(name), resolve(name, SPEC).for_episodes(seeds))
    (step,) = manifest.lineage
    assert step.arguments == {"masks": ["mine", "random-2", "random-k"]}
    assert manifest.version == "1.1.0"


def test_a_dataset_without_masks(tmp_path):
    bare = tiny_dataset(tmp_path / "bare.zarr", spec=SPEC, masks={})
    relabel_masks(bare.path, tmp_path / "r.zarr", ["full", "random-2"])
    assert verify(tmp_path / "r.zarr").ok
    assert ExpertBuffer.open(tmp_path / "r.zarr").mask_names == ("full", "random-2")


def test_refusals(parent, tmp_path):
    out = tmp_path / "r.zarr"
    with pytest.raises(UsageError, match="no mask is given"):
        relabel_masks(parent.path, out, [])
    with pytest.raises(UsageError, match="has the mask 'full' already"):
        relabel_masks(parent.path, out, ["random-2", "full"])
    with pytest.raises(UsageError, match="different names"):
        relabel_masks(parent.path, out, ["random-2", "random-2"])
    with pytest.raises(UnknownNameError, match="unknown mask 'randm-2'"):
        relabel_masks(parent.path, out, ["randm-2"])
    with pytest.raises(MismatchError, match="not defined for"):
        relabel_masks(parent.path, out, ["limited"])
    bare = tiny_dataset(tmp_path / "bare.zarr", spec=SPEC, without=["episodes/seed"])
    with pytest.raises(MissingArrayError, match="no episodes/seed"):
        relabel_masks(bare.path, out, ["random-2"])
    assert not out.exists()
