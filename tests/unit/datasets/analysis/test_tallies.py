"""Every count against numbers worked out by hand."""

import numpy as np

from kd_offline.datasets.analysis.profile import profile
from kd_offline.testing.factories import (
    environment_spec,
)
from tests.unit.datasets.analysis.conftest import dataset

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
