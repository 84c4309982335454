import numpy as np
import pytest

from kd_offline.errors import UsageError
from kd_offline.evaluation.rollout import rollout
from kd_offline.robustness.perturbations import PERTURBATIONS
from kd_offline.robustness.perturbations.base import (
    Perturbation,
    PerturbedPolicy,
    chosen_agents,
    idle,
    legal_actions,
    strengths_of,
)
from kd_offline.robustness.perturbations.observations import Noise
from kd_offline.seeding import episode_seeds
from kd_offline.testing.environments import ConformanceError
from kd_offline.testing.perturbations import check_perturbation
from kd_offline.testing.targets import TargetsEnvironment, TargetsPolicy
from tests.unit.robustness.perturbations.factories import SEEDS, SPEC, setting

WITHOUT_GRADIENTS = [n for n in PERTURBATIONS if not PERTURBATIONS.load(n).needs_gradients]
EPISODES = episode_seeds(0, 0, 60, "evaluation")


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_ours_keep_what_the_protocol_promises(name):
    check_perturbation(PERTURBATIONS.load(name))


class Shuffled(Noise):
    def observations(self, view, moment):
        return np.roll(view.obs, 1, axis=0)  # another episode's


class Always(Noise):
    def observations(self, view, moment):
        return view.obs * 0.5


class Nothing(Noise):
    def observations(self, view, moment):
        return view.obs


class Unsorted(Noise):
    strengths = (1.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [(Shuffled, "batch"), (Nothing, "effect"), (Unsorted, "strengths")],
)
def test_what_breaks_a_promise_is_named(kind, rule):
    with pytest.raises(ConformanceError, match=f"^{rule}"):
        check_perturbation(kind)


@pytest.mark.parametrize("name", PERTURBATIONS.names())
def test_with_strength_zero_play_has_the_very_bits(name):
    environment, policy = TargetsEnvironment(), TargetsPolicy(forgets_after=4)
    given = setting(0.0, spec=environment.spec)
    for kind in (PERTURBATIONS.load(name), Always):
        perturbed = PerturbedPolicy(policy, kind(given))
        one, other = (
            rollout(environment, each, EPISODES, greedy=True) for each in (policy, perturbed)
        )
        assert np.array_equal(one.returns, other.returns)
        assert np.array_equal(one.action_counts, other.action_counts)


class Watching(Perturbation):
    """Keeps what the policy chose in each step, and changes nothing."""

    def start(self, seeds):
        self.chosen = []
        return {}

    def actions(self, chosen, output, view, moment):
        self.chosen.append(chosen)
        return chosen.copy()


@pytest.mark.parametrize("greedy", [True, False])
def test_a_perturbation_gets_the_actions_that_would_be_played(greedy):
    environment, policy = TargetsEnvironment(), TargetsPolicy(strength=1.0)
    watching = Watching(setting(1.0, spec=environment.spec))
    plain = rollout(environment, policy, EPISODES, greedy=greedy)
    watched = PerturbedPolicy(policy, watching, greedy=greedy)
    perturbed = rollout(environment, watched, EPISODES, greedy=greedy)
    assert np.array_equal(plain.returns, perturbed.returns)
    assert np.array_equal(plain.action_counts, perturbed.action_counts)
    first = [(watching.chosen[0][:, 0] == action).sum() for action in range(4)]
    assert first == plain.action_counts[0, 0].tolist()


def test_memory_of_some_episodes_is_that_of_these_episodes():
    class Counting(TargetsPolicy):
        def keep(self, memory, episodes):
            return memory[episodes]

    policy = PerturbedPolicy(Counting(), PERTURBATIONS.load("delay")(setting(2.0)))
    memory = policy.start(SEEDS)
    memory.kept["waiting"][:] = np.arange(4)[:, None, None]
    kept = policy.keep(memory, np.array([1, 3]))
    assert kept.seeds.tolist() == [11, 70]
    assert kept.kept["waiting"][:, 0, 0].tolist() == [1, 3]
    without = PerturbedPolicy(TargetsPolicy(), PERTURBATIONS.load("delay")(setting(2.0)))
    assert without.keep(without.start(SEEDS), np.array([1])) is None


def test_doing_nothing_is_the_first_named_action_that_is_legal_and_else_the_lowest():
    names = (("fire", "stop", "noop"), ("up", "Stay", "left", "right"))
    spec = SPEC.model_copy(update={"action_names": names})
    legal = np.zeros((3, 2, 4), bool)
    legal[0, :, :3] = True
    legal[1, 0, :2] = legal[1, 1, 2:] = True
    assert idle(spec, legal).tolist() == [[2, 1], [1, 2], [0, 0]]


def test_actions_that_are_not_legal_become_doing_nothing():
    legal = np.zeros((1, 2, 4), bool)
    legal[0, 0, 2] = legal[0, 1, 1] = legal[0, 1, 3] = True
    assert legal_actions(SPEC, np.array([[0, 3]]), legal).tolist() == [[2, 3]]
    assert legal_actions(SPEC, np.array([[-1, 9]]), legal).tolist() == [[2, 1]]


def test_as_many_agents_fail_as_the_strength_says():
    draws = np.array([[0.3, 0.1], [0.2, 0.9]])
    assert chosen_agents(setting(1.0), draws).tolist() == [[False, True], [True, False]]
    assert chosen_agents(setting(3.0), draws).all()
    assert chosen_agents(setting(1.0, agents=(0,)), draws).tolist() == [[True, False]] * 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("drop:1.5", "from 0 to 1, which is the probability"),
        ("delay:0.5", "a whole number of 0 or more"),
        ("noise:-1", "cannot have the strength -1"),
        ("noise:nan", "cannot have the strength nan"),
        ("dead:nan", "cannot have the strength nan: give a whole number"),
        ("delay:inf", "cannot have the strength inf: give a whole number"),
        ("noise:1e300", "from 0 to 100, which is its standard deviation"),
        ("noise:much", "is no number: write noise:0.5"),
    ],
)
def test_impossible_strengths_are_refused(entry, message):
    with pytest.raises(UsageError, match=message):
        list(strengths_of(entry, PERTURBATIONS.load(entry.partition(":")[0])))


def test_without_a_strength_the_perturbations_own_are_played():
    kind = PERTURBATIONS.load("delay")
    assert list(strengths_of("delay", kind)) == [("delay", 1.0), ("delay", 2.0)]
    assert list(strengths_of("delay:3", kind)) == [("delay", 3.0)]


def test_observations_that_are_no_numbers_any_more_are_refused():
    class Broken(Perturbation):
        def observations(self, view, moment):
            return view.obs + np.inf

    policy = PerturbedPolicy(TargetsPolicy(), Broken(setting(1.0)))
    with pytest.raises(UsageError, match="give a smaller one"):
        rollout(TargetsEnvironment(), policy, EPISODES, greedy=True)
