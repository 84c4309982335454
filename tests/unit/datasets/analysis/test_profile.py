"""Every figure against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.datasets.analysis.calibration import returns_to_go
from kd_offline.datasets.analysis.profile import backwards, profile, returns_by_noise
from kd_offline.datasets.format import layout
from kd_offline.errors import CorruptDatasetError
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    full_mask,
    header,
    tiny_dataset,
)
from kd_offline.tracking.base import FunctionObserver

SPEC = environment_spec((4, 3), (3, 2), episode_limit=4)
LENGTHS = [2, 3, 1]


def dataset(path, *, spec=SPEC, lengths=LENGTHS, masks=None, expert=None, without=(), **changes):
    """A small dataset, random but for ``changes``: steps_x, final_x, episodes_x."""
    block = episode_block(spec, lengths, without=without)
    groups = {"steps": dict(block.steps), "final": dict(block.final)}
    groups["episodes"] = dict(block.episodes)
    for name, values in changes.items():
        group, _, array = name.partition("_")
        groups[group][array] = np.asarray(values)
    given = {"full": full_mask(spec)} if masks is None else masks
    head = header(spec, masks=given)
    if expert is not None:
        experts = (head.experts[0].model_copy(update=expert),)
        head = head.model_copy(update={"experts": experts})
    with DatasetWriter.create(path, head) as writer:
        writer.append(replace(block, **groups))
        writer.commit(given)
    return ExpertBuffer.open(path)


@pytest.fixture(params=[1, 2, 8192])
def chunked(request, monkeypatch):
    """The same figures come out whatever the chunks: of one row, of two, of all."""
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", request.param)
    monkeypatch.setattr(layout, "MIN_CHUNK_ROWS", request.param)


ACTIONS = np.array([[0, 0], [1, 1], [2, 0], [2, 1], [0, 1], [1, 0]], np.int16)
ALIVE = np.array([[1, 1], [1, 1], [1, 1], [1, 0], [1, 0], [1, 1]], bool)


def test_actions_over_time(tmp_path, chunked):
    legal = np.zeros((6, 2, 3), bool)
    legal[np.arange(6)[:, None], [0, 1], ACTIONS] = True
    legal[:, 0, 0] = True
    buffer = dataset(
        tmp_path / "d", steps_actions=ACTIONS, steps_alive=ALIVE, steps_available_actions=legal
    )
    found = profile(buffer)
    np.testing.assert_array_equal(found.moments, [0, 1, 2, 3])
    # At step 0 the rows 0, 2, 5: agent_0 takes 0, 2, 1 and agent_1 takes 0, 0, 0.
    np.testing.assert_allclose(found.frequency[0], [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0]])
    # At step 1 the rows 1, 3: agent_1 is not alive in row 3.
    np.testing.assert_allclose(found.frequency[1], [[0, 1 / 2, 1 / 2], [0, 1, 0]])
    # At step 2 row 4 alone, where agent_1 is not alive.
    np.testing.assert_allclose(found.frequency[2], [[1, 0, 0], [0, 0, 0]])
    # agent_0 may always take 0; 1 in rows 1 and 5; 2 in rows 2 and 3. agent_1 lives in 0, 1, 2, 5.
    np.testing.assert_allclose(found.legal, [[1, 2 / 6, 2 / 6], [3 / 4, 1 / 4, 0]])


def test_long_episodes_share_fifty_bins_of_time(tmp_path):
    spec = environment_spec((2,), (2,), episode_limit=200)
    actions = (np.arange(200)[:, None] >= 100).astype(np.int16)
    buffer = dataset(
        tmp_path / "d",
        spec=spec,
        lengths=[200],
        steps_actions=actions,
        steps_available_actions=np.ones((200, 1, 2), bool),
    )
    found = profile(buffer)
    np.testing.assert_allclose(found.moments, np.arange(51) * 4)
    np.testing.assert_allclose(found.frequency[:, 0, 1], np.arange(50) >= 25)


def test_entropy_is_of_legal_actions_of_agents_that_act(tmp_path, chunked):
    logits = np.zeros((6, 2, 3), np.float32)
    logits[0, 0] = np.log([0.5, 0.25, 0.25])
    legal = np.ones((6, 2, 3), bool)
    legal[:, 1, 2] = False
    legal[1:, 0, 2] = False
    buffer = dataset(
        tmp_path / "d",
        steps_logits=logits,
        steps_available_actions=legal,
        steps_alive=ALIVE,
        steps_actions=np.zeros((6, 2), np.int16),
    )
    entropy = profile(buffer).entropy
    two, mixed = np.log(2), 0.5 * np.log(2) + 0.5 * np.log(4)
    np.testing.assert_allclose(entropy[:, 0], [(mixed + 2 * two) / 3, two, two], rtol=1e-6)
    np.testing.assert_allclose(entropy[:2, 1], [two, two], rtol=1e-6)
    assert np.isnan(entropy[2, 1])


def test_similarity_of_embeddings(tmp_path, chunked):
    vectors = np.zeros((6, 2, 4), np.float16)
    vectors[:, 0] = [3, 0, 0, 0]
    vectors[:, 1] = [0, 1, 0, 0]
    vectors[0, 1] = [2, 0, 0, 0]
    vectors[1, 1] = [-1, 0, 0, 0]
    vectors[2, 1] = [1, 1, 0, 0]
    vectors[3, 1] = [9, 0, 0, 0]  # not alive
    found = profile(dataset(tmp_path / "d", steps_embedding=vectors, steps_alive=ALIVE))
    cosine = (1 - 1 + np.sqrt(0.5) + 0) / 4
    np.testing.assert_allclose(found.similarity, [[1, cosine], [cosine, 1]], atol=1e-6)


def test_sources(tmp_path, chunked):
    source = np.array([[0, 1], [0, 1], [2, 0], [0, 2], [0, 0], [1, 0]], np.uint8)
    found = profile(dataset(tmp_path / "d", steps_action_source=source, steps_alive=ALIVE))
    np.testing.assert_array_equal(found.sources, [[4, 1, 1], [2, 2, 0]])


def test_returns_to_go_by_hand():
    reward = np.array([[1.0], [2.0], [4.0], [8.0], [16.0]])
    ends = np.array([False, True, False, False, False])
    found = returns_to_go(reward, np.full((5, 1), 0.5), ends, np.array([32.0]))
    np.testing.assert_allclose(found[:, 0], [2, 2, 4 + 4 + 4 + 4, 8 + 8 + 8, 16 + 16])


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64, 100])
def test_returns_to_go_equal_a_loop(rows):
    rng = np.random.default_rng(rows)
    reward, discount = rng.normal(size=(rows, 3)), rng.random((rows, 3))
    ends, after = rng.random(rows) < 0.2, rng.normal(size=3)
    wanted, following = np.empty_like(reward), after
    for t in range(rows - 1, -1, -1):
        wanted[t] = reward[t] + (0 if ends[t] else discount[t] * following)
        following = wanted[t]
    np.testing.assert_allclose(returns_to_go(reward, discount, ends, after), wanted, atol=1e-12)


# Mean reward of the side, discounted by 1/2, of the episodes of 2, 3 and 1 steps.
REWARD = np.array([[1, 3], [4, 4], [0, 2], [2, 2], [4, 8], [10, 0]], np.float32)
TO_GO = np.array([2 + 0.5 * 4, 4, 1 + 0.5 * (2 + 0.5 * 6), 2 + 0.5 * 6, 6, 5])


def test_values_against_returns(tmp_path, chunked):
    value = np.stack([TO_GO, TO_GO + 1], axis=1).astype(np.float32)
    buffer = dataset(tmp_path / "d", steps_reward=REWARD, steps_value=value, expert={"gamma": 0.5})
    found = profile(buffer).calibration
    np.testing.assert_allclose(found.correlation, [1, 1])
    np.testing.assert_allclose(found.bias, [0, 1], atol=1e-6)
    np.testing.assert_allclose(found.explained, [1, 1])
    np.testing.assert_array_equal(found.count.sum(1), [6, 6])
    seen = found.count[0] > 0
    np.testing.assert_allclose(found.value[0, seen], found.outcome[0, seen])
    np.testing.assert_allclose(
        (found.outcome[1] * found.count[1])[found.count[1] > 0].sum(), TO_GO.sum()
    )


def test_bad_values_are_seen_to_be_bad(tmp_path, chunked):
    value = np.stack([-TO_GO, np.full(6, 3.0)], axis=1).astype(np.float32)
    buffer = dataset(tmp_path / "d", steps_reward=REWARD, steps_value=value, expert={"gamma": 0.5})
    found = profile(buffer).calibration
    np.testing.assert_allclose(found.correlation[0], -1)
    assert np.isnan(found.correlation[1])
    np.testing.assert_allclose(found.bias, [-2 * TO_GO.mean(), 3 - TO_GO.mean()], rtol=1e-6)
    np.testing.assert_allclose(found.explained, [1 - 4, 0], atol=1e-6)


def test_steps_that_something_else_disturbs_later_do_not_count(tmp_path, chunked):
    source = np.zeros((6, 2), np.uint8)
    source[3, 1] = 1  # row 3 is disturbed, so rows 2 and 3 say nothing of the expert
    buffer = dataset(
        tmp_path / "d",
        steps_reward=REWARD,
        steps_value=np.stack([TO_GO, TO_GO], 1).astype(np.float32),
        steps_action_source=source,
        expert={"gamma": 0.5},
    )
    found = profile(buffer).calibration
    np.testing.assert_array_equal(found.count.sum(1), [4, 4])
    total = (found.outcome * found.count)[0][found.count[0] > 0].sum()
    np.testing.assert_allclose(total, TO_GO[[0, 1, 4, 5]].sum())


def test_what_follows_a_time_limit_is_worth_what_the_expert_thinks(tmp_path, chunked):
    """Episode 1 is truncated; episodes 0 and 2 are terminated."""
    value = np.stack([TO_GO, TO_GO], 1).astype(np.float32)
    beyond = np.full((3, 2), 8.0, np.float32)
    arrays = {"steps_reward": REWARD, "steps_value": value, "final_value": beyond}
    plain = dataset(tmp_path / "a", **arrays, expert={"gamma": 0.5, "bootstraps_truncation": False})
    more = dataset(tmp_path / "b", **arrays, expert={"gamma": 0.5, "bootstraps_truncation": True})
    shift = profile(plain).calibration.bias - profile(more).calibration.bias
    np.testing.assert_allclose(shift, (1 + 2 + 4) / 6)


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


def test_no_discount_no_calibration(tmp_path):
    assert profile(dataset(tmp_path / "d", expert={"gamma": None})).calibration is None


def test_memory_holds_one_chunk_at_a_time(ragged):
    sizes = [len(rows.episode) for rows in backwards(ragged, 10)]
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
