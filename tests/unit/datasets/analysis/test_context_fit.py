"""Predictions of labels against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from kd_offline.datasets.analysis.columns import column_names
from kd_offline.datasets.analysis.context_fit import ContextFit, LinearHead, Regions, Scale
from kd_offline.datasets.analysis.poison_sample import Reader, chosen, narrowed
from kd_offline.testing.factories import environment_spec, tiny_dataset


@pytest.fixture
def decisions(tmp_path):
    """800 decisions of one agent; its outputs are a linear function of its embedding."""
    spec = environment_spec((4,), (3,))
    buffer = tiny_dataset(tmp_path / "d", lengths=[20] * 50, spec=spec, seed=3)
    (part,) = Reader(buffer)._read(np.arange(50))
    weights = np.arange(12.0).reshape(4, 3) / 4 * (-1) ** np.arange(12).reshape(4, 3)
    outputs = (np.asarray(part.embedding) @ weights + [0.1, 0.0, -0.1]).astype(np.float32)
    label = np.where(part.legal, outputs, -np.inf).argmax(1)
    return replace(part, outputs=outputs, label=label)


def test_a_linear_head_is_read_off_and_contradicted(decisions):
    head = LinearHead(decisions)
    assert head.exact
    np.testing.assert_allclose(head.weights[-1], [0.1, 0.0, -0.1], atol=1e-3)
    assert not head.contradictions(decisions).any()
    wrong = decisions.label.copy()
    scores = np.where(decisions.legal, decisions.outputs, -np.inf)
    wrong[5] = scores[5].argsort()[-2]
    found = head.contradictions(replace(decisions, label=wrong))
    assert np.flatnonzero(found).tolist() == [5]
    assert found[5] == pytest.approx(np.diff(np.sort(scores[5]))[-1], abs=1e-3)


def test_poison_in_the_sample_is_outvoted(decisions):
    outputs = decisions.outputs.copy()
    outputs[::10] = outputs[::10, ::-1] + 3
    head = LinearHead(replace(decisions, outputs=outputs))
    assert head.exact
    np.testing.assert_allclose(head.weights[-1], [0.1, 0.0, -0.1], atol=1e-3)


def test_outputs_that_do_not_follow_contradict_nothing(decisions):
    noise = np.random.default_rng(0).standard_normal(decisions.outputs.shape)
    head = LinearHead(replace(decisions, outputs=noise.astype(np.float32)))
    assert not head.exact
    assert not head.contradictions(decisions).any()
    assert not LinearHead(chosen(decisions, slice(0, 9))).exact  # too few for its weights
    assert not LinearHead(replace(decisions, embedding=None)).exact


def test_a_fold_is_predicted_by_the_other_one_alone(decisions):
    fit = ContextFit.of(decisions)
    half = len(decisions.label) // 2
    first, second = chosen(decisions, slice(0, half)), chosen(decisions, slice(half, None))
    fit.add(first, 0)
    fit.add(second, 1)
    fit.solve()
    other = ContextFit.of(decisions)
    other.add(chosen(first, slice(0, 1)), 0)
    other.add(second, 1)
    other.solve()
    of_first, _ = fit.surprise(first, 0)
    np.testing.assert_allclose(of_first, other.surprise(first, 0)[0], rtol=1e-5)
    assert (of_first >= 0).all()


def test_columns_that_never_change_say_nothing():
    values = np.array([[1.0, 5.0], [3.0, 5.0]])
    scale = Scale.of(values)
    np.testing.assert_allclose(scale(values), [[-1, 0], [1, 0]])
    np.testing.assert_allclose(scale(np.array([[100.0, 1e9]])), [[6, 0]])  # six deviations at most


def test_regions_are_named_by_what_is_most_special():
    obs = np.zeros((100, 3), np.float32)
    obs[:50, 1], obs[50:, 1] = -2, 2
    regions = Regions(obs, "test")
    low, high = regions.of(obs[:1])[0], regions.of(obs[-1:])[0]
    assert low != high
    assert regions.in_words(low, ["a", "b", "c"]).startswith("b about -2")


def test_wide_features_are_projected_and_keep_their_distances():
    values = np.random.default_rng(0).standard_normal((20, 3000)).astype(np.float32)
    narrow = narrowed(values, 1000)
    assert narrow.shape == (20, 1000)
    assert np.linalg.norm(narrow[0] - narrow[1]) == pytest.approx(
        np.linalg.norm(values[0] - values[1]), rel=0.1
    )
    assert narrowed(narrow, 1000) is narrow


def test_columns_are_named_by_block_and_place():
    names = column_names(environment_spec((5, 2)), 0)
    assert names == ["own[0]", "own[1]", "own[2]", "others[0]", "others[1]"]
    assert column_names(environment_spec((5, 2)), 1) == ["own", "others"]


def test_what_an_agent_did_is_part_of_what_is_compared(tmp_path):
    buffer = tiny_dataset(tmp_path / "d", lengths=[2, 1], spec=environment_spec((2,), (3,)))
    reader = Reader(buffer)
    (part,) = reader._read(np.arange(2))
    obs, actions = buffer.read("steps/obs")[:, 0], buffer.read("steps/actions")[:, 0]
    rows = part.episode * 2 + part.step
    context = dict(zip(rows.tolist(), part.context, strict=True))
    assert set(context) <= {0, 1, 2}
    for row, values in context.items():
        before = np.zeros(2) if row != 1 else obs[0]
        action = np.eye(3)[actions[0]] if row == 1 else np.zeros(3)
        np.testing.assert_allclose(values[:8], [*obs[row], *before, *action, row != 1])
