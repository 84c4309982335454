import numpy as np
import pytest
import torch

from kd_offline.errors import CheckpointError
from kd_offline.experts.replay import Replay
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.testing.targets import TargetsEnvironment


def played(first, count=8):
    seeds = np.arange(first, first + count, dtype=np.uint64)
    return collect(TargetsEnvironment(), RandomPolicy(), seeds, sampled(seeds))


def test_the_oldest_episodes_leave_first():
    first, second = played(0), played(8)
    small = Replay(10).added(first)
    both = small.added(second)
    assert (len(small.episodes), len(both.episodes)) == (8, 10)
    assert both.episodes[0] is small.episodes[6]
    lengths = [len(e["reward"]) for e in both.episodes]
    assert lengths == [*first.length[6:], *second.length]
    assert len(Replay(3).added(first).episodes) == 3


def test_episodes_hold_their_own_steps_and_the_view_after_them():
    seen = played(0)
    for b, episode in enumerate(Replay(8).added(seen).episodes):
        length = int(seen.length[b])
        np.testing.assert_array_equal(episode["actions"], seen.steps["actions"][:length, b])
        np.testing.assert_array_equal(episode["obs"][:length], seen.steps["obs"][:length, b])
        np.testing.assert_array_equal(episode["obs"][length], seen.final["obs"][b])
        assert episode["terminated"].tolist() == [False] * (length - 1) + [True]


def test_a_sample_is_distinct_and_padded():
    replay = Replay(100).added(played(0)).added(played(8))
    batch = replay.sample(5, np.random.default_rng(0))
    lengths = batch.valid.sum(0)
    assert batch.obs.shape[:2] == (int(lengths.max()) + 1, 5)
    assert batch.actions.shape[:2] == (int(lengths.max()), 5)
    assert batch.actions.dtype == torch.int64
    for b, n in enumerate(lengths.tolist()):
        assert batch.terminated[:, b].nonzero().flatten().tolist() == [n - 1]
        assert not batch.reward[n:, b].any()
        assert not batch.available[n + 1 :, b].any()
    every = replay.sample(1000, np.random.default_rng(0))
    got = sorted(float(x) for x in every.obs[0].flatten(1).sum(1))
    want = sorted(float(e["obs"][0].sum()) for e in replay.episodes)
    assert got == pytest.approx(want)


def test_it_survives_as_tensors():
    replay = Replay(12).added(played(0)).added(played(8))
    again = Replay(12).restored(replay.tensors())
    assert len(again.episodes) == 12
    for one, other in zip(replay.episodes, again.episodes, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])
    assert Replay(3).restored(Replay(3).tensors()) == Replay(3)
    with pytest.raises(CheckpointError, match="no replayed episodes"):
        Replay(3).restored({})
