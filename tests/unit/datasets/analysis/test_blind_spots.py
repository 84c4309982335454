"""Blind spots against numbers worked out by hand."""

import numpy as np
import pytest

from kd_offline.datasets.analysis import blind_spots as module
from kd_offline.datasets.analysis.blind_spots import Divergences, blind_spots, sampled_episodes
from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests.unit.datasets.analysis.conftest import dataset
from tests.unit.datasets.analysis.poisoning import arrays_of, sealed

SPEC = environment_spec((4,), (2,), episode_limit=10)


@pytest.fixture
def buffer(tmp_path):
    """600 decisions; the value falls with ``own[1]``, the policy is even where ``others[0]`` > 0.

    Two decisions lie where no other one is, at 5.
    """
    source = tiny_dataset(tmp_path / "random", lengths=[10] * 60, spec=SPEC)
    arrays = arrays_of(source)
    rng = np.random.default_rng(0)
    arrays["steps/available_actions"][:] = True
    obs = rng.choice([-1.0, 0.0, 1.0, 2.0], (600, 1, 4)).astype(np.float32)
    obs[[100, 205], 0, 1] = 5
    arrays["steps/obs"] = obs
    arrays["steps/value"] = -obs[..., 1]
    arrays["steps/logits"][..., 0] = np.where(obs[..., 2] > 0, 0.0, 20.0)
    arrays["steps/logits"][..., 1] = 0
    return sealed(source, tmp_path / "d", arrays)


def test_columns_are_those_that_explain_most(buffer):
    (grid,) = blind_spots(buffer).agents
    assert set(grid.columns) == {"own[1]", "others[0]"}
    assert grid.explained == pytest.approx(1, abs=1e-3)


def test_means_of_cells(buffer):
    spots = blind_spots(buffer)
    (grid,) = spots.agents
    assert (spots.episodes, spots.decisions, spots.notes) == (60, 600, ())
    by_name = dict(zip(grid.columns, grid.edges, strict=True))
    assert by_name["own[1]"] == (-0.5, 0.5, 1.5, 3.5)
    assert by_name["others[0]"] == (-0.5, 0.5, 1.5)
    decisions = np.array(grid.decisions)
    value, entropy = np.array(grid.value, float), np.array(grid.entropy, float)
    if grid.columns[0] != "own[1]":
        decisions, value, entropy = decisions.T, value.T, entropy.T
    assert decisions.sum() == 600
    assert decisions[4].sum() == 2
    np.testing.assert_allclose(value[:4], [[1] * 4, [0] * 4, [-1] * 4, [-2] * 4])
    np.testing.assert_allclose(entropy[:4], [[0, 0, np.log(2), np.log(2)]] * 4, atol=1e-6)


def test_weakest_regions_and_where_to_look(buffer):
    regions = blind_spots(buffer).regions
    assert [region.number for region in regions] == list(range(1, len(regions) + 1))
    low = [region for region in regions if region.why == "low value"]
    assert [region.value for region in low] == [-2] * 4
    undecided = next(region for region in regions if region.why == "high entropy")
    assert undecided.entropy == pytest.approx(np.log(2))
    few = [region for region in regions if region.why == "few decisions"]
    places = {(place.episode, place.step) for region in few for place in region.places}
    assert places == {(10, 0), (20, 5)}
    (ranged,) = {part for region in few for part in region.columns if part.column == "own[1]"}
    assert (ranged.low, ranged.high) == (3.5, None)


def test_where_students_differ(buffer):
    obs = buffer.read("steps/obs")[:, 0]
    kl = np.where(obs[:, 1] == 2, 0.7, 0.1)
    rows = np.arange(600)
    divergence = Divergences(np.arange(60), rows // 10, rows % 10, np.zeros(600, np.int64), kl)
    spots = blind_spots(buffer, divergence)
    differ = [region for region in spots.regions if region.why == "students differ"]
    assert [region.number for region in differ] == [1, 2, 3, 4]
    assert all(region.student_kl == pytest.approx(0.7) for region in differ)
    assert spots.student_episodes == 60
    assert obs[differ[0].places[0].episode * 10 + differ[0].places[0].step, 1] == 2


def test_what_explains_nothing_by_chance_is_not_called_explained():
    values = np.random.default_rng(0).standard_normal(400)
    share = module._explained(values, np.arange(400) % 100)
    assert abs(share) < 0.15  # without adjustment it would be 0.25
    assert module._explained(values, np.arange(400)) == 0  # a cell for each
    assert module._explained(np.ones(4), np.array([0, 0, 1, 1])) == 0


def test_little_data_and_what_is_missing_are_said(tmp_path):
    without = ["steps/value", "steps/logits", "final/value"]
    buffer = dataset(tmp_path / "d", without=without)
    spots = blind_spots(buffer)
    assert (spots.agents, spots.regions) == ((), ())
    assert spots.notes[0].startswith("agent_0: too little data, ")
    assert spots.notes[-2:] == (
        "no values were recorded",
        "no logits were recorded, so there is no entropy",
    )


def test_observations_that_never_change_have_no_grid(buffer, tmp_path):
    arrays = arrays_of(buffer)
    arrays["steps/obs"][:] = 0.5
    spots = blind_spots(sealed(buffer, tmp_path / "constant", arrays))
    assert (spots.agents, spots.notes) == ((), ("agent_0: its observations never change",))


def test_one_column_is_enough(tmp_path):
    spec = environment_spec((1, 3), (2, 4))
    spots = blind_spots(tiny_dataset(tmp_path / "d", lengths=[5] * 60, spec=spec))
    assert [len(grid.columns) for grid in spots.agents] == [1, 2]
    assert all(len(row) == 1 for row in spots.agents[0].decisions)


def test_a_sample_of_many_episodes_is_always_the_same(buffer):
    drawn = sampled_episodes(buffer, np.arange(60), 100)
    assert len(drawn) == 10
    np.testing.assert_array_equal(drawn, sampled_episodes(buffer, np.arange(60), 100))
