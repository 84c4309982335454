import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer, merge, split, verify
from kd_offline.datasets.edit.split import parse_parts
from kd_offline.errors import (
    MismatchError,
    MissingArrayError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from kd_offline.testing.factories import tiny_dataset
from kd_offline.tracking.base import FunctionObserver


def codes(path):
    return ExpertBuffer.open(path).episodes("split")


def test_only_the_split_changes(parent, tmp_path):
    manifest = split(parent.path, tmp_path / "s.zarr", heldout=0.25)
    assert verify(tmp_path / "s.zarr").ok
    assert manifest.splits["train"].episodes == 30
    assert manifest.splits["heldout"].episodes == 10
    before, after = parent.manifest.arrays, manifest.arrays
    assert [name for name in before if before[name] != after[name]] == ["episodes/split"]
    assert manifest.version == "1.1.0"
    (step,) = manifest.lineage
    assert step.operation == "split"
    assert step.parents == (parent.id,)
    assert step.arguments["seed"] == 0


def test_the_same_seed_gives_the_same_id(parent, tmp_path):
    ids = [split(parent.path, tmp_path / f"{k}.zarr", seed=seed).id for k, seed in enumerate("001")]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("heldout", [0.0, 0.1, 0.5])
def test_returns_are_spread_evenly(parent, tmp_path, heldout):
    split(parent.path, tmp_path / "s.zarr", heldout=heldout)
    chosen = codes(tmp_path / "s.zarr") == 1
    assert chosen.sum() == round(40 * heldout)
    order = np.argsort(parent.episodes("return"))
    for tenth in np.array_split(chosen[order], 4):
        assert abs(tenth.sum() - 10 * heldout) <= 1


def test_wins_are_spread_evenly(parent, tmp_path):
    split(parent.path, tmp_path / "s.zarr", heldout=0.2, stratify="won")
    chosen = codes(tmp_path / "s.zarr") == 1
    assert [(chosen & (parent.episodes("won") == won)).sum() for won in (0, 1)] == [4, 4]


def test_named_parts(parent, tmp_path):
    parts = {"train": 0.8, "val": 0.1, "test": 0.1}
    manifest = split(parent.path, tmp_path / "s.zarr", parts=parts)
    assert {n: (s.code, s.episodes) for n, s in manifest.splits.items()} == {
        "train": (0, 32),
        "heldout": (1, 0),
        "val": (2, 4),
        "test": (3, 4),
    }
    buffer = ExpertBuffer.open(tmp_path / "s.zarr")
    together = np.concatenate([buffer.split(name) for name in parts])
    assert sorted(together) == list(range(40))


def test_episodes_of_one_seed_stay_together(parent, tmp_path):
    twice = tmp_path / "twice.zarr"
    again = tiny_dataset(tmp_path / "again.zarr", 40, spec=parent.spec)
    merge([parent.path, again.path], twice, duplicates="keep")
    split(twice, tmp_path / "s.zarr", heldout=0.3)
    found = codes(tmp_path / "s.zarr")
    assert np.array_equal(found[:40], found[40:])
    assert found.sum() == 24


def test_without_seeds_every_episode_is_its_own(tmp_path):
    given = tiny_dataset(tmp_path / "d.zarr", 10, without=["episodes/seed"])
    assert split(given.path, tmp_path / "s.zarr", heldout=0.2).splits["heldout"].episodes == 2


def test_an_interrupted_split_is_continued(parent, tmp_path, monkeypatch):
    def stop(done, total, unit):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split(parent.path, tmp_path / "s.zarr", observers=[FunctionObserver(progress=stop)])
    with pytest.raises(StorageError, match="unfinished"):
        split(parent.path, tmp_path / "s.zarr")
    with pytest.raises(MismatchError, match="another operation"):
        split(parent.path, tmp_path / "s.zarr", seed=5, resume=True)
    resumed = split(parent.path, tmp_path / "s.zarr", resume=True)
    assert resumed.id == split(parent.path, tmp_path / "t.zarr").id
    assert verify(tmp_path / "s.zarr").ok


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heldout": 1.0}, "below 1"),
        ({"heldout": -0.1}, "at least 0"),
        ({"parts": {"train": 0.5, "val": 0.4}}, "add up to 0.9"),
        ({"parts": {"a": 0.5, "b": 0.5}}, "one of them for 'train'"),
        ({"parts": {"train": 0.5, "../x": 0.5}}, "small letters"),
        ({"parts": {"train": 1.0, "none": 0.0}}, "above 0"),
        ({"parts": {"train": 0.5} | {f"p{k}": 0.5 / 50 for k in range(50)}}, "too few"),
    ],
)
def test_impossible_shares(parent, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        split(parent.path, tmp_path / "s.zarr", **options)
    assert not (tmp_path / "s.zarr").exists()


def test_impossible_strata(parent, tmp_path):
    with pytest.raises(UnknownNameError, match="return, none, noise, expert, won"):
        split(parent.path, tmp_path / "s.zarr", stratify="retrn")
    bare = tiny_dataset(tmp_path / "bare.zarr", without=["episodes/won"])
    with pytest.raises(MissingArrayError, match="episodes/won"):
        split(bare.path, tmp_path / "s.zarr", stratify="won")


def test_parts_as_text():
    assert parse_parts("train:0.8,val:0.2") == {"train": 0.8, "val": 0.2}
    for text in ("", "train", "train:x", "train:0.5,train:0.5", "a:1:2"):
        with pytest.raises(UsageError, match="not a list of parts"):
            parse_parts(text)
