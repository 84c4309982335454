"""A game of turns through every command: who waits decides nothing, and counts in nothing."""

import json

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.terms.policy_gradient import PolicySettings, advantages
from kd_offline.environments import load
from kd_offline.evaluation.rollout import rollout
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.students.policy import load as load_students
from kd_offline.types import View
from tests.end_to_end.conftest import kd, kd_json

GAME = "pettingzoo/pettingzoo.classic.tictactoe_v3:env"
TWO_SIDES = ("--env", "episode_limit=9", "--env", "sides=each")
ONE_SIDE = ("--env", "episode_limit=9")
TINY = ("--hidden", "8", "--threads", "1", "-q")


def recorded(root, algorithm, *settings):
    expert, dataset = root / f"{algorithm}-expert", root / f"{algorithm}.zarr"
    short = ("--algorithm", algorithm, "--frames", "600", "--score", "0")
    kd("train", GAME, *settings, *short, *TINY, "-o", expert)
    few = ("--episodes", 40, "--expert", expert, "--threads", 1, "-q")
    kd("record", GAME, *settings, *few, "-o", dataset)
    return dataset


@pytest.fixture(scope="module", params=["mappo", "ippo", "vdn", "qmix"])
def dataset(request, tmp_path_factory):
    settings = TWO_SIDES if request.param in ("mappo", "ippo") else ONE_SIDE
    return recorded(tmp_path_factory.mktemp("turns"), request.param, *settings)


@pytest.fixture(scope="module")
def run(dataset):
    folder = dataset.parent / "run"
    how = ("--policy-term", "none", "--epochs", 1, "--batch", 16, *TINY)
    kd("distill", dataset, "-o", folder, *how)
    return folder


def test_a_recording_counts_the_moves_and_nothing_else(dataset):
    """Noughts and crosses: one stone a step, who moves first has the odd ones."""
    kd("verify", dataset)
    kd("verify", dataset, "--replay", 10, "--environment", GAME)
    buffer = ExpertBuffer.open(dataset)
    lengths = buffer.episodes("length")
    alive, obs = buffer.read("steps/alive"), buffer.read("steps/obs")
    move = np.concatenate([np.arange(length) for length in lengths])
    np.testing.assert_array_equal(alive, np.arange(2) == move[:, None] % 2)
    for player in range(2):  # both see every stone, on their turn or not
        np.testing.assert_array_equal(obs[:, player].sum(-1), move)
    legal = buffer.read("steps/available_actions").sum(-1)
    np.testing.assert_array_equal(legal, np.where(alive, 9 - move[:, None], 0))
    counts = np.array(buffer.manifest.statistics.action_counts)
    assert counts.sum(-1).tolist() == alive.sum(0).tolist()
    assert (np.abs(buffer.episodes("agent_return").sum(-1)) < 1e-6).all()
    assert set(buffer.episodes("agent_return")[:, 0].tolist()) <= {-1.0, 0.0, 1.0}


def test_students_are_judged_by_their_own_moves(dataset, run):
    """Played step by step, as deployed, and counted by hand."""
    said = json.loads((run / "run.json").read_text())["results"][0]["held_out"]
    buffer, student = ExpertBuffer.open(dataset), load_students(run)[0]
    wanted = "steps/q_values" if buffer.has("steps/q_values") else "steps/logits"
    same, kl = [], []
    for episode in buffer.split("heldout"):
        names = ["obs", "available_actions", "alive", "actions"]
        steps = buffer.load([*(f"steps/{n}" for n in names), wanted], np.array([episode]))
        memory, last = student.start(buffer.episodes("seed")[[episode]]), None
        for t in range(len(steps["steps/obs"])):
            obs, legal, alive, actions = (steps[f"steps/{name}"][None, t] for name in names)
            view = View(obs, np.zeros((1, 0), np.float32), legal, alive, last)
            output, memory = student.act(view, memory)
            last = actions.astype(np.int64)
            player = int(np.flatnonzero(alive[0])[0])
            free = legal[0, player]
            own, expert = output.logits[0, player, free], steps[wanted][t, player, free]
            if len(own) > 1:  # the last stone of a full board is no choice
                same.append(own.argmax() == expert.argmax())
                p, q = (x - np.log(np.exp(x).sum()) for x in (expert, own))
                kl.append((np.exp(p) * (p - q)).sum())
    assert said["agreement"] == said["joint_agreement"] == pytest.approx(np.mean(same))
    if wanted == "steps/logits":
        assert said["kl"] == pytest.approx(np.mean(kl), rel=1e-4, abs=1e-6)


def test_advantages_join_the_moves_of_a_player(dataset):
    """By a slow loop over one player's own moves: what it was paid in between counts."""
    buffer = ExpertBuffer.open(dataset)
    names = ["alive", "reward", "value", "terminated", "truncated"]
    arrays, _ = buffer.padded([f"steps/{n}" for n in names], np.arange(buffer.n_episodes))
    arrays["final/value"] = buffer.read("final/value")
    settings = PolicySettings(gamma=0.9, gae_lambda=0.7)
    critic = buffer.manifest.experts[0]
    got = advantages(arrays, buffer.spec, critic, settings).numpy()
    reward = arrays["steps/reward"].astype(np.float64)
    if len(buffer.spec.sides) == 1:
        reward = np.repeat(reward.mean(-1, keepdims=True), 2, -1)
    for episode, length in enumerate(buffer.episodes("length").tolist()):
        for player in range(2):
            moves = list(range(player, length, 2))
            value = arrays["steps/value"][episode, :, player].astype(np.float64)
            running, after = 0.0, 0.0
            for move, end in zip(reversed(moves), reversed([*moves[1:], length]), strict=True):
                paid = sum(0.9 ** (k - move) * reward[episode, k, player] for k in range(move, end))
                step = 0.9 ** (end - move)
                running = paid + step * after - value[move] + 0.7 * step * running
                after = value[move]
                assert got[episode, move, player] == pytest.approx(running, abs=1e-4)


def test_evaluation_export_and_report_give_numbers(dataset, run):
    expert = dataset.with_name(f"{dataset.stem}-expert")
    how = ("--episodes", 20, "--environment", GAME, "--expert", expert, "--threads", 1)
    found = kd_json("evaluate", run, *how)
    assert _finite(found)
    kd("export", run, "-q")
    played = kd_json("evaluate", run, "--export", run / "export", *how)
    assert _finite(played)
    if dataset.stem in ("mappo", "qmix"):  # figures know of two sides or one, not of algorithms
        kd("report", run)
        assert "nan" not in (run / "report.html").read_text().lower().split()


def _finite(document):
    text = json.dumps(document)
    return "NaN" not in text and "Infinity" not in text


def test_a_rollout_counts_every_move_once():
    world = load(GAME, episode_limit=9)
    played = rollout(world, RandomPolicy(), np.arange(20, dtype=np.uint64), greedy=False)
    np.testing.assert_array_equal(played.alive_steps[:, 0], (played.lengths + 1) // 2)
    np.testing.assert_array_equal(played.alive_steps[:, 1], played.lengths // 2)
    assert played.action_counts.sum() == played.lengths.sum()
    assert set(np.unique(played.returns)) <= {-1.0, 0.0, 1.0}
    assert np.abs(played.returns[played.lengths < 9]).min() == 1  # a short game has a winner
