"""Every figure against numbers worked out by hand."""

import numpy as np
import pytest

from kd_offline.datasets.analysis.profile import profile, returns_by_noise, rows_backwards
from kd_offline.errors import CorruptDatasetError
from kd_offline.testing.factories import (
    full_mask,
    tiny_dataset,
)
from kd_offline.tracking.base import FunctionObserver
from tests.unit.datasets.analysis.conftest import SPEC, dataset


def test_returns_by_split_and_noise(tmp_path):
    lengths = [1] * 40
    reward = np.repeat(np.arange(40.0, dtype=np.float32)[:, None] / 2, 2, axis=1)
    noise = np.repeat(np.array([0, 0.5], np.float32), 20)
    buffer = dataset(
        tmp_path / "d", lengths=lengths, steps_reward=reward, episodes_noise_level=noise
    )
    found = profile(buffer)
    assert found.returns.edges[[0, -1]].tolist() == [0, 39]
    held = buffer.split("heldout")
    assert {k: v.sum() for k, v in found.returns.counts.items()} == {"train": 38, "heldout": 2}
    assert found.returns.means["heldout"] == pytest.approx(held.mean())
    by_noise = found.returns_by_noise
    assert list(by_noise.counts) == ["0", "0.5"]
    assert by_noise.means == {"0": 9.5, "0.5": 29.5}
    np.testing.assert_array_equal(by_noise.counts["0"], [2] * 10 + [0] * 10)
    np.testing.assert_array_equal(by_noise.counts["0.5"], [0] * 10 + [2] * 10)


def test_many_levels_of_noise_are_put_into_ranges(tmp_path):
    noise = np.linspace(0, 1, 40).astype(np.float32)
    buffer = dataset(tmp_path / "d", lengths=[1] * 40, episodes_noise_level=noise)
    found = returns_by_noise(buffer)
    assert len(found.counts) == 7
    assert sum(c.sum() for c in found.counts.values()) == 40
    assert next(iter(found.counts)) == "0 to 0.14"


def test_lengths(tmp_path):
    found = profile(dataset(tmp_path / "d")).lengths
    assert found.edges.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert found.counts["all"].tolist() == [1, 1, 1]


def test_masks_by_block(tmp_path):
    fixed = full_mask(SPEC)
    fixed[0, :2] = False
    drawn = np.zeros((3, 2, 4), bool)
    drawn[0, 0, 0] = drawn[1, 0, 0] = drawn[1, 0, 1] = drawn[2, 1, 2] = True
    buffer = dataset(tmp_path / "d", masks={"fixed": fixed, "drawn": drawn})
    masks = profile(buffer).masks
    assert masks["fixed"] == {
        "agent_0": {"own": 0.0, "others": 1.0},
        "agent_1": {"own": 1.0, "others": 1.0},
    }
    assert masks["drawn"]["agent_0"]["own"] == pytest.approx(0.5)
    assert masks["drawn"]["agent_1"] == pytest.approx({"own": 0.0, "others": 1 / 3})


def test_what_is_not_stored_is_left_out(tmp_path):
    names = ("logits", "embedding", "action_source", "value")
    without = [f"steps/{name}" for name in names] + ["final/value", "episodes/noise_level"]
    found = profile(dataset(tmp_path / "d", without=without))
    parts = (found.entropy, found.similarity, found.sources, found.calibration)
    assert (*parts, found.returns_by_noise) == (None,) * 5
    assert found.frequency.shape == (3, 2, 3)


def test_memory_holds_one_chunk_at_a_time(ragged):
    sizes = [len(rows.episode) for rows in rows_backwards(ragged, 10)]
    assert sum(sizes) == ragged.n_steps
    assert max(sizes) == 16
    steps: list[int] = []
    profile(ragged, FunctionObserver(progress=lambda done, total, unit: steps.append(done)))
    assert steps == np.cumsum(sizes).tolist()


def test_damage_is_an_error(tmp_path):
    buffer = tiny_dataset(tmp_path / "d")
    chunk = buffer.path / "steps" / "logits" / "c" / "0" / "0" / "0"
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    with pytest.raises(CorruptDatasetError, match="steps/logits"):
        profile(buffer)
