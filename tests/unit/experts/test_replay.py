import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.errors import CheckpointError
from kd_offline.experts.replay import Planes, Replay
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.testing.targets import TargetsEnvironment


def played(first, count=8):
    seeds = np.arange(first, first + count, dtype=np.uint64)
    return collect(TargetsEnvironment(), RandomPolicy(), seeds, sampled(seeds))


def plain(episode):
    """The arrays of an episode as they were played."""
    return {n: v.values() if isinstance(v, Planes) else v for n, v in episode.items()}


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
    for b, episode in enumerate(map(plain, Replay(8).added(seen).episodes)):
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
    want = sorted(float(plain(e)["obs"][0].sum()) for e in replay.episodes)
    assert got == pytest.approx(want)


def test_it_survives_as_tensors():
    replay = Replay(12).added(played(0)).added(played(8))
    again = Replay(12).restored(replay.tensors())
    assert len(again.episodes) == 12
    for pair in zip(replay.episodes, again.episodes, strict=True):
        one, other = map(plain, pair)
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])
    assert Replay(3).restored(Replay(3).tensors()) == Replay(3)
    with pytest.raises(CheckpointError, match="no replayed episodes"):
        Replay(3).restored({})


HARD = np.array(
    [
        # a plane, bytes at their limits, a negative zero, a fraction, too large, negative, NaN
        [0, 0, 0.0, 0.5, 1, 1, 1],
        [1, 255, -0.0, 1.0, 256, -1, np.nan],
    ],
    np.float32,
)


def test_columns_of_small_integers_take_a_byte_and_come_back_bit_for_bit():
    kept = Planes.of(HARD)
    assert kept.is_small.tolist() == [True, True, *(False,) * 5]
    assert kept.small.dtype == np.uint8
    assert kept.small.shape == (2, 2)
    assert kept.values().dtype == np.float32
    assert kept.values().tobytes() == HARD.tobytes()


def boards(first, count=3):
    seeds = np.arange(first, first + count, dtype=np.uint64)
    board = environments.load("grid/predator_prey", size=4, n_predators=2, n_prey=2, view=3)
    return collect(board, RandomPolicy(), seeds, sampled(seeds))


def test_boards_are_kept_in_less_than_half_of_their_size():
    seen = boards(0)
    for b, episode in enumerate(Replay(3).added(seen).episodes):
        obs = episode["obs"]
        assert obs.small.nbytes + obs.rest.nbytes < plain(episode)["obs"].nbytes / 2
        assert plain(episode)["obs"][:-1].tobytes() == (
            seen.steps["obs"][: int(seen.length[b]), b].tobytes()
        )


def test_episodes_with_other_columns_survive_as_tensors_together():
    replay = Replay(4).added(boards(0, 2))
    odd = dict(replay.episodes[0])
    values = odd["obs"].values().copy()
    values[0, 0, 0] = 0.5
    replay = Replay(4, (*replay.episodes, odd | {"obs": Planes.of(values)}))
    again = Replay(4).restored(replay.tensors())
    for pair in zip(replay.episodes, again.episodes, strict=True):
        one, other = map(plain, pair)
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_a_replay_that_was_saved_as_floats_is_read():
    replay = Replay(3).added(boards(0))
    saved = replay.tensors()
    for name in ("obs", "state"):
        whole = np.concatenate([plain(episode)[name] for episode in replay.episodes])
        saved[f"replay.{name}"] = torch.from_numpy(whole)
        del saved[f"replay.{name}.small"], saved[f"replay.{name}.small_columns"]
    again = Replay(3).restored(saved)
    for one, other in zip(replay.episodes, again.episodes, strict=True):
        assert one["obs"].small.tobytes() == other["obs"].small.tobytes()
        assert plain(one)["state"].tobytes() == plain(other)["state"].tobytes()


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("small_columns", lambda x: ~x),
        ("small_columns", lambda x: x.to(torch.int64)),
        ("small", lambda x: x[:-1]),
        ("small", lambda x: x[..., :-1]),
    ],
)
def test_bytes_that_do_not_fit_their_columns_are_refused(name, spoil):
    saved = Replay(3).added(boards(0)).tensors()
    saved[f"replay.obs.{name}"] = spoil(saved[f"replay.obs.{name}"])
    with pytest.raises(ValueError, match="do not fit their columns"):
        Replay(3).restored(saved)
