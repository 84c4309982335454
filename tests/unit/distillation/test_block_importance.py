import numpy as np
import pytest

from kd_offline.distillation.block_importance import block_importance, importance_of, shapley
from kd_offline.testing.factories import environment_spec, full_mask, tiny_dataset

COLUMNS = {"a": np.array([0]), "b": np.array([1]), "noise": np.array([2, 3])}


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).standard_normal((3000, 4))


def two(p):
    return np.stack([p, 1 - p], 1)


def test_shapley_by_hand():
    value = {frozenset({0}): 1.0, frozenset({1}): 2.0, frozenset({0, 1}): 5.0}
    assert shapley(2, value.__getitem__) == [2.0, 3.0]  # (1 + 5 - 2) / 2 and (2 + 5 - 1) / 2


def test_many_players_still_add_up():
    found = shapley(7, lambda s: float(len(s) ** 2))
    assert sum(found) == pytest.approx(49)
    assert shapley(7, lambda s: 1.0 * (3 in s)) == pytest.approx([0, 0, 0, 1, 0, 0, 0])


def test_what_a_linear_map_reads_is_worth_no_hidden_units(inputs):
    found = importance_of("agent", inputs, two(0.5 + 0.1 * inputs[:, 0]), COLUMNS)
    assert found.linear == pytest.approx(found.decision, rel=0.1)
    assert found.total < 0.02 * found.decision


def test_blocks_that_only_say_something_together_share_their_worth(inputs):
    found = importance_of("agent", inputs, two(1.0 * (inputs[:, 0] * inputs[:, 1] > 0)), COLUMNS)
    share = {b.block: b.worth for b in found.blocks}
    assert found.linear < 0.03
    assert found.total > 0.5 * found.decision
    assert share["a"] == pytest.approx(share["b"], abs=0.05)
    assert share["noise"] < 0.1 * share["a"]  # below zero where it only gets in the way
    assert sum(share.values()) == pytest.approx(found.total)


def test_redundant_blocks_share_what_one_says(inputs):
    twice = inputs.copy()
    twice[:, 1] = twice[:, 0]
    found = importance_of("agent", twice, two(1.0 * (abs(twice[:, 0]) > 0.7)), COLUMNS)
    share = {b.block: b.worth for b in found.blocks}
    assert share["a"] == pytest.approx(share["b"], rel=0.1)
    assert share["noise"] < 0.1 * share["a"]


def test_nothing_seen_or_decided_is_worth_nothing(inputs):
    assert importance_of("agent", inputs, two(inputs[:, 0]), {}).total == 0
    assert importance_of("agent", inputs, two(np.full(3000, 0.3)), COLUMNS).total == 0


@pytest.mark.parametrize("without", [(), ("steps/logits",)])
def test_from_a_file(tmp_path, without):
    spec = environment_spec((6, 4))
    buffer = tiny_dataset(tmp_path / "data.zarr", 12, spec=spec, without=without)
    visible = full_mask(spec)
    visible[0, :3] = False
    found = block_importance(buffer, visible, motion=True)
    assert [[b.block for b in one.blocks] for one in found] == [["others"], ["own", "others"]]
    assert found == block_importance(buffer, visible, motion=True)
    assert found[0].decision > 0.1
