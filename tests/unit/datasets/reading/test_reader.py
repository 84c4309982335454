import subprocess
import sys

import numpy as np
import pytest

from kd_offline.errors import (
    MissingArrayError,
    UnknownNameError,
    UsageError,
)
from kd_offline.testing.factories import tiny_dataset

ALL = ["steps/obs", "steps/actions", "final/obs", "episodes/seed", "masks/full"]


def test_what_a_dataset_says(ragged):
    assert ragged.n_episodes == 40
    assert ragged.n_steps == ragged.episodes("length").sum() == len(ragged.read("steps/reward"))
    assert ragged.mask_names == ("full",)
    assert ragged.has("steps/state")
    assert not ragged.has("steps/q_values")
    assert "40 episodes" in repr(ragged)
    assert ragged.id == ragged.manifest.id


@pytest.mark.parametrize("name", ["steps/obs", "steps/truncated", "episodes/return", "masks/full"])
def test_any_range_of_rows(ragged, name):
    whole = ragged.read(name)
    for start in {0, 1, len(whole) // 2, len(whole)}:
        for stop in {start, min(start + 1, len(whole)), min(start + 40, len(whole)), len(whole)}:
            assert np.array_equal(ragged.read(name, start, stop), whole[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 10_000)])
def test_rows_outside_are_refused(ragged, start, stop):
    with pytest.raises(UsageError, match="steps/obs has rows 0 to"):
        ragged.read("steps/obs", start, stop)


def test_loading_some_episodes_is_a_selection(ragged):
    chosen = np.array([7, 0, 39, 7])
    offset, length = ragged.episodes("offset"), ragged.episodes("length")
    rows = np.concatenate([np.arange(offset[e], offset[e] + length[e]) for e in chosen])
    got = ragged.load(ALL, chosen)
    for name in ALL[:2]:
        assert np.array_equal(got[name], ragged.read(name)[rows])
    for name in ALL[2:4]:
        assert np.array_equal(got[name], ragged.read(name)[chosen])
    assert np.array_equal(got["masks/full"], ragged.mask("full"))
    whole = ragged.load(ALL)
    assert all(np.array_equal(whole[name], ragged.read(name)) for name in ALL)


def test_padded_episodes(ragged):
    chosen = np.array([5, 2, 30])
    arrays, valid = ragged.padded(["steps/reward", "steps/actions"], chosen)
    length = ragged.episodes("length")[chosen]
    assert valid.shape == (3, length.max())
    assert np.array_equal(valid.sum(axis=1), length)
    flat = ragged.load(["steps/reward"], chosen)["steps/reward"]
    assert np.array_equal(arrays["steps/reward"][valid], flat)
    assert not arrays["steps/reward"][~valid].any()


def test_episodes_of_one_length_need_no_padding(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr", lengths=[6] * 5)
    arrays, valid = buffer.padded(["steps/obs"])
    assert valid.all()
    assert np.array_equal(arrays["steps/obs"].reshape(30, 3, 6), buffer.read("steps/obs"))


def test_only_steps_can_be_padded(ragged):
    with pytest.raises(UsageError, match="only steps"):
        ragged.padded(["episodes/seed"])


def test_splits_are_disjoint_and_complete(ragged):
    train, heldout = ragged.split("train"), ragged.split("heldout")
    assert len(heldout) == 2
    assert np.array_equal(np.sort(np.concatenate([train, heldout])), np.arange(40))
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        ragged.split("training")


def test_unknown_names(ragged):
    with pytest.raises(MissingArrayError, match="did you mean 'steps/logits'"):
        ragged.read("logits")
    with pytest.raises(MissingArrayError, match="has no array 'steps/q_values'"):
        ragged.load(["steps/q_values"])
    with pytest.raises(UnknownNameError, match="unknown mask 'ful'"):
        ragged.mask("ful")
    with pytest.raises(UsageError, match="episodes must lie in 0 to 39"):
        ragged.load(["steps/obs"], np.array([40]))


def test_importing_the_reader_is_light():
    code = (
        "import sys, kd_offline.datasets as d, kd_offline.schemas.publish;"
        "d.ExpertBuffer, d.DatasetWriter, d.verify, d.inspect;"
        "heavy = {'torch', 'zarr', 'matplotlib', 'pettingzoo'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
