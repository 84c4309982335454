import numpy as np
import pytest

from kd_offline.distributions.categorical import Categorical
from kd_offline.errors import EXIT_FAILED
from kd_offline.exports import parity_check
from kd_offline.exports.engines import team
from kd_offline.exports.parity_check import ParityError, Recorded
from kd_offline.schemas.export import Comparison
from tests.unit.exports.conftest import KINDS, SPEC, exported


def tiny():
    """One episode of two steps and one of one, two agents, two actions."""
    shape = (2, 2, 2)
    arrays = {
        "obs": np.zeros((*shape, 1), np.float32),
        "available_actions": np.ones((*shape, 2), bool),
        "alive": np.ones(shape, bool),
        "actions": np.array([[[0, 1], [1, 1]], [[1, 0], [0, 0]]], np.int16),
    }
    valid = np.array([[True, True], [True, False]])
    seeds = np.arange(2, dtype=np.uint64)
    return Recorded("id", "heldout", np.arange(2), seeds, arrays, valid, Categorical)


def logits(value=0.0):
    out = np.zeros((2, 2, 2, 2), np.float32)
    out[..., 0] = 1.0
    out[..., 1] = value
    return out


def test_errors_are_relative_above_one_and_absolute_below():
    theirs = logits(4.0)
    ours = theirs.copy()
    ours[0, 0, 0] += [0.25, 0.5]
    found = parity_check.compare(ours, theirs, tiny())
    assert found.decisions == 6
    assert found.logit_error == 0.25  # 0.25 / 1, and 0.5 / 4
    assert found.mean_logit_error == pytest.approx((0.25 + 0.125) / 12)
    assert found.agreement == 1.0


def test_only_steps_and_agents_that_act_count():
    episodes = tiny()
    episodes.arrays["alive"][0, 1, 1] = False
    ours = logits()
    ours[1, 1] = 50.0  # after the end of the second episode
    ours[0, 1, 1] = [0.0, 50.0]  # a dead agent
    found = parity_check.compare(ours, logits(), episodes)
    assert (found.decisions, found.agreement, found.logit_error) == (5, 1.0, 0.0)


def test_actions_are_the_legal_ones():
    episodes = tiny()
    episodes.arrays["available_actions"][0, 0, 0] = [False, True]
    ours = logits()
    ours[0, 0, 0] = [1.00001, 0.0]
    assert parity_check.greedy(ours, episodes)[0, 0].tolist() == [1, 0]


def test_an_answer_that_is_no_number_is_refused():
    ours = logits()
    ours[0, 0, 0, 0] = np.nan
    found = parity_check.compare(ours, logits(), tiny())
    with pytest.raises(ParityError, match="refused"):
        parity_check.require_parity("c", found)


def good(**changes):
    plain = {"decisions": 1000, "agreement": 1.0, "logit_error": 1e-6, "mean_logit_error": 1e-7}
    return Comparison(**(plain | changes))


def test_parity_needs_both_logits_and_actions():
    parity_check.require_parity("c", good())
    with pytest.raises(ParityError, match=r"off by up to 0\.01 .*0 actions differ"):
        parity_check.require_parity("c", good(logit_error=0.01))
    with pytest.raises(ParityError, match="3 actions differ") as raised:
        parity_check.require_parity("onnx", good(agreement=0.997))
    assert raised.value.exit_code == EXIT_FAILED


def test_a_precision_may_cost_as_much_as_was_allowed():
    parity_check.require_agreement(good(agreement=0.95), 0.95, "int8")
    with pytest.raises(ParityError, match=r"0\.9400 of their 1,000 .*\(allowed 0\.9500"):
        parity_check.require_agreement(good(agreement=0.94), 0.95, "int8")


def test_views_are_the_recording_with_what_was_executed_before(episodes, buffer):
    views = list(episodes.views())
    held = buffer.split("heldout")
    assert len(episodes.seeds) == len(held) == 3
    assert episodes.seeds.tolist() == buffer.episodes("seed")[held].tolist()
    lengths = buffer.episodes("length")[held]
    assert episodes.steps == lengths.sum()
    assert len(views) == episodes.longest == lengths.max()
    assert views[0].last_actions is None
    start = int(buffer.episodes("offset")[held[0]])
    assert views[2].last_actions[0].tolist() == buffer.read("steps/actions")[start + 1].tolist()
    assert np.array_equal(views[2].obs[0], buffer.read("steps/obs")[start + 2])


def test_the_first_episodes_are_whole(episodes):
    few = episodes.first(episodes.valid[0].sum() + 1)
    assert few.seeds.tolist() == episodes.seeds[:2].tolist()
    assert few.steps == episodes.valid[:2].sum()
    assert few.longest == episodes.valid[:2].sum(axis=1).max()
    assert len(episodes.first(1).seeds) == 1
    assert len(episodes.first(10**6).seeds) == len(episodes.seeds)
    assert few.arrays["obs"].shape == (2, few.longest, SPEC.n_agents, SPEC.obs_width)


def test_ties_are_counted_and_excused_and_nothing_else_is():
    theirs = logits(1.0 - 1e-5)
    ours = theirs.copy()
    ours[0, 0, 0] = [1.0 - 1e-5, 1.0]
    found = parity_check.compare(ours, theirs, tiny())
    assert found.ties == 1
    assert found.agreement == pytest.approx(5 / 6)
    parity_check.require_parity("c", found)
    further = logits(1.0 - 1e-3)
    ours = further.copy()
    ours[0, 0, 0] = [1.0 - 1e-3, 1.0]
    assert parity_check.compare(ours, further, tiny()).ties == 0
    with pytest.raises(ParityError, match="1 actions differ"):
        parity_check.require_parity("c", good(agreement=0.998, ties=1))


def test_a_step_that_does_not_follow_its_own_logits_is_refused(episodes):
    _, networks, agents, _ = exported(KINDS[1])

    def second_best(step):
        def wrong(obs, legal, memory):
            _, said, after = step(obs, legal, memory)
            return said.argmin(axis=1), said, after

        return wrong

    steps = [second_best(network.step) for network in networks]
    with pytest.raises(ParityError, match="it returned the action"):
        parity_check.replay(team(agents, steps, None), episodes)


def test_actions_count_where_there_is_a_choice_and_logits_wherever_somebody_acts():
    episodes = tiny()
    episodes.arrays["available_actions"][0, 0, 0] = [True, False]
    episodes.arrays["available_actions"][0, 1, 1] = [False, False]  # waits for its turn
    ours = logits()
    ours[0, 0, 0] = [1.0, 5.0]  # its only legal action is still the first
    ours[0, 1, 1] = [0.0, 5.0]
    found = parity_check.compare(ours, logits(), episodes)
    assert (found.decisions, found.agreement, found.logit_error) == (4, 1.0, 5.0)


def test_without_any_choice_there_is_no_agreement_to_lose():
    episodes = tiny()
    episodes.arrays["available_actions"][..., 1] = False
    found = parity_check.compare(logits(), logits(), episodes)
    assert (found.decisions, found.agreement) == (0, None)
    parity_check.require_parity("c", found)
    parity_check.require_agreement(found, 0.95, "int8")
