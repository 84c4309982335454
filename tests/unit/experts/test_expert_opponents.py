"""Experts that learned one side: whoever they learned against plays the other, everywhere."""

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.errors import CheckpointError, MismatchError, UsageError
from kd_offline.experts import checkpoint
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.expert import TrainedExpert, combine
from kd_offline.experts.load import load
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe
from kd_offline.types import PolicyOutput

NAME = "mpe/simple_adversary_v3"
SEEDS = np.arange(3, dtype=np.uint64)


def saved(folder, spec, *, width, **recipe):
    """Save an untrained expert whose actors differ from those of other seeds."""
    small = ExpertArchitecture(trunk=(width,), gru=width, critic_trunk=(8,), critic_gru=None)
    card = ExpertCard(
        environment=spec,
        recipe=TrainRecipe(environment=NAME, architecture=small, seed=width, **recipe),
        agents=spec.agents,
        parameters={"actor": 1},
        mask=None,
        frames=1,
        seconds=0.0,
        threads=1,
        finished=True,
    )
    team = checkpoint.build(card)
    card = card.model_copy(update={"parameters": team.parameter_counts()})
    checkpoint.save(folder, card, team, {}, {})
    return folder


@pytest.fixture
def world():
    return environments.load(NAME)


def test_opponents_play_the_side_that_did_not_learn(tmp_path, world):
    spec = world.spec
    other = saved(tmp_path / "other", spec, width=12)
    own = saved(tmp_path / "own", spec, width=8, learn=("good",), opponents=str(other))
    team, opponents = load(own, spec, opponents=[str(other)]), load(other, spec)
    assert isinstance(team, TrainedExpert)
    assert team.learned.tolist() == [False, True, True]
    view = world.reset(SEEDS)
    said, memory = team.act(view, team.start(SEEDS))
    own_policy = team.team.policy()
    alone, _ = own_policy.act(view, own_policy.start(SEEDS))
    theirs, _ = opponents.act(view, opponents.start(SEEDS))
    for name in ("logits", "value"):
        np.testing.assert_array_equal(getattr(said, name)[:, 0], getattr(theirs, name)[:, 0])
        np.testing.assert_array_equal(getattr(said, name)[:, 1:], getattr(alone, name)[:, 1:])
    assert said.embedding.shape == (3, 3, 12)
    again, _ = team.act(view, memory)  # both remember
    assert not np.array_equal(again.logits, said.logits)
    entry = team.describe()
    assert list(entry.opponents) == ["adversary"]
    assert opponents.digest[:19] in entry.opponents["adversary"]
    assert str(tmp_path) not in entry.opponents["adversary"]
    assert [shape.gru for shape in team.actor_shapes()] == [12, 8, 8]


def test_opponents_that_are_gone_are_named(tmp_path, world):
    own = saved(tmp_path / "own", world.spec, width=8, learn=("good",), opponents="gone/")
    with pytest.raises(CheckpointError, match="learned the side good against 'gone/'"):
        load(own, world.spec, opponents=["gone/"])


def test_an_expert_file_does_not_choose_whose_code_or_folder_is_loaded(tmp_path, world):
    other = saved(tmp_path / "other", world.spec, width=12)
    for name in (str(other), "python:os:getcwd", "onnx:there.onnx", "bundled/../x"):
        own = saved(tmp_path / "own", world.spec, width=8, learn=("good",), opponents=name)
        with pytest.raises(UsageError, match=r"may not load by itself: .* pass opponents="):
            load(own, world.spec)


def test_a_chain_of_opponents_is_followed_only_as_far_as_somebody_has_to_decide(tmp_path, world):
    """Two sides: the opponents play all that is asked of them, so theirs are not needed."""
    spec = world.spec
    adversary = {"learn": ("adversary",), "opponents": "python:nobody:here"}
    other = saved(tmp_path / "other", spec, width=12, **adversary)
    own = saved(tmp_path / "own", spec, width=8, learn=("good",), opponents=str(other))
    team = load(own, spec, opponents=[str(other)])
    assert isinstance(team.opponents, TrainedExpert)
    assert team.opponents.opponents is None


def test_an_expert_that_names_itself_as_its_opponents_ends(tmp_path, world):
    own = tmp_path / "own"
    saved(own, world.spec, width=8, learn=("good",), opponents=str(own))
    with pytest.raises(UsageError, match="may not load by itself"):
        load(own, world.spec, opponents=[str(own)])


def test_values_and_logits_do_not_mix():
    logits = np.zeros((1, 2, 3), np.float32)
    with pytest.raises(MismatchError, match="one team"):
        combine(
            PolicyOutput(logits, q_values=logits), PolicyOutput(logits), np.array([True, False])
        )
