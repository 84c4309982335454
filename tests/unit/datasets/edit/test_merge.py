import numpy as np
import pytest

from kd_offline.datasets import (
    DatasetWriter,
    ExpertBuffer,
    append,
    filter,
    merge,
    split,
    verify,
)
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.testing.factories import (
    episode_block,
    full_mask,
    header,
    tiny_dataset,
)


@pytest.fixture
def other(parent, tmp_path):
    return tiny_dataset(tmp_path / "other.zarr", 12, spec=parent.spec, seed=1)


def recorded(path, spec, *, masks=None, changes=None, expert=None, block=None, seed=2):
    """Record two episodes of which other things are said."""
    head = header(spec, seed=seed)
    if expert is not None:
        head = head.model_copy(update={"experts": (head.experts[0].model_copy(update=expert),)})
    head = head.model_copy(update=changes or {})
    with DatasetWriter.create(path, head) as writer:
        writer.append(block or episode_block(spec, [3, 4], seed=seed))
        writer.commit({"full": full_mask(spec)} if masks is None else masks)
    return ExpertBuffer.open(path)


def test_one_after_the_other(parent, other, tmp_path):
    manifest = merge([parent.path, other.path], tmp_path / "m.zarr")
    made = ExpertBuffer.open(tmp_path / "m.zarr")
    assert verify(made.path).ok
    for name in made.names:
        if name.startswith("masks/"):
            assert np.array_equal(made.read(name), parent.read(name))
        elif name != "episodes/offset":
            want = np.concatenate([parent.read(name), other.read(name)])
            assert np.array_equal(made.read(name), want), name
    (step,) = manifest.lineage
    assert step.parents == (parent.id, other.id)
    recordings = step.model_dump()["arguments"]["recordings"]
    assert [recording["seed"] for recording in recordings] == [0, 1]
    assert manifest.name == "test/random"


def test_the_order_decides_the_id_and_nothing_else_does(parent, other, tmp_path):
    one = merge([parent.path, other.path], tmp_path / "1.zarr", name="a")
    two = merge([parent.path, other.path], tmp_path / "2.zarr", licence="MIT")
    assert one.id == two.id
    assert one.id != merge([other.path, parent.path], tmp_path / "3.zarr").id


def test_parts_of_one_dataset_make_it_again(parent, tmp_path):
    filter(parent.path, tmp_path / "a.zarr", "episode < 13")
    filter(parent.path, tmp_path / "b.zarr", "episode >= 13")
    merged = merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")
    assert merged.id == parent.id
    assert [step.operation for step in merged.lineage] == ["filter", "filter", "merge"]
    assert [step.result is None for step in merged.lineage] == [False, False, True]


def test_splits_go_by_name(parent, other, tmp_path):
    split(parent.path, tmp_path / "a.zarr", parts={"train": 0.5, "val": 0.25, "test": 0.25})
    split(other.path, tmp_path / "b.zarr", parts={"train": 0.5, "test": 0.5})
    manifest = merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")
    assert {name: part.episodes for name, part in manifest.splits.items()} == {
        "train": 26,
        "heldout": 0,
        "val": 10,
        "test": 16,
    }
    assert verify(tmp_path / "m.zarr").ok


def test_the_same_episode_is_never_in_two_parts(parent, tmp_path):
    split(parent.path, tmp_path / "a.zarr", heldout=0.5, seed=1)
    split(parent.path, tmp_path / "b.zarr", heldout=0.5, seed=2)
    merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr", duplicates="keep")
    codes = ExpertBuffer.open(tmp_path / "m.zarr").episodes("split")
    assert np.array_equal(codes[:40], ExpertBuffer.open(tmp_path / "a.zarr").episodes("split"))
    assert np.array_equal(codes[40:], codes[:40])
    assert verify(tmp_path / "m.zarr").ok


def test_masks_of_every_episode_follow_each_other(parent, tmp_path):
    paths, masks = [], []
    for seed in (2, 3):
        drawn = np.random.default_rng(seed).random((2, 3, 6)) < 0.5
        head = {"full": full_mask(parent.spec), "drawn": drawn}
        recorded(tmp_path / f"{seed}.zarr", parent.spec, masks=head, seed=seed)
        paths.append(tmp_path / f"{seed}.zarr")
        masks.append(drawn)
    merge(paths, tmp_path / "m.zarr")
    made = ExpertBuffer.open(tmp_path / "m.zarr")
    assert np.array_equal(made.mask("drawn"), np.concatenate(masks))
    assert np.array_equal(made.mask("full"), full_mask(parent.spec))


def test_appending_is_the_next_version(parent, other, tmp_path):
    manifest = append(parent.path, [other.path], tmp_path / "a.zarr")
    assert manifest.id == merge([parent.path, other.path], tmp_path / "m.zarr", name="x").id
    assert (manifest.name, manifest.version) == ("test/random", "1.1.0")
    assert manifest.lineage[-1].operation == "append"
    third = append(tmp_path / "a.zarr", [parent.path], tmp_path / "b.zarr", duplicates="drop")
    assert third.version == "1.2.0"
    assert third.id == manifest.id


def test_impossible_choices(parent, other, tmp_path):
    both = [parent.path, other.path]
    with pytest.raises(UsageError, match="at least two"):
        merge([parent.path], tmp_path / "m.zarr")
    with pytest.raises(UsageError, match="at least two"):
        append(parent.path, [], tmp_path / "m.zarr")
    with pytest.raises(UnknownNameError, match="did you mean 'common'"):
        merge(both, tmp_path / "m.zarr", arrays="commn")
    with pytest.raises(UnknownNameError, match="refuse, keep, drop"):
        merge(both, tmp_path / "m.zarr", duplicates="ask")
    with pytest.raises(UnknownNameError, match="steps/logits"):
        merge(both, tmp_path / "m.zarr", without=["logit"])
    with pytest.raises(UsageError, match="cannot be left out"):
        merge(both, tmp_path / "m.zarr", without=["obs"])
    with pytest.raises(UsageError, match="never changes in place"):
        merge(both, other.path, overwrite=True)
