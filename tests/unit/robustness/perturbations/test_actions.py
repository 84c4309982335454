import numpy as np

from kd_offline.robustness.perturbations.actions import Delay, Sticky
from kd_offline.seeding import uniforms
from tests.unit.robustness.perturbations.factories import SEEDS, moment, output, setting, view


def carried_out(perturbation, choices, views=None):
    """Return what is done in each step where ``choices`` [T, B, N] are chosen."""
    kept, done = perturbation.start(SEEDS), []
    for step, chosen in enumerate(choices):
        now = moment(perturbation, step=step, kept=kept)
        seen = view() if views is None else views[step]
        done.append(perturbation.actions(np.array(chosen), output(np.zeros((4, 2, 4))), seen, now))
        kept = now.kept
    return np.array(done)


def test_delayed_actions_are_carried_out_in_their_order_after_doing_nothing():
    choices = [np.full((4, 2), k) for k in (3, 1, 2, 3)]
    done = carried_out(Delay(setting(2.0)), choices)
    assert done[:, 0, 0].tolist() == [0, 0, 3, 1]


def test_sticky_agents_repeat_what_they_did_last():
    choices = [np.full((4, 2), k) for k in (1, 2, 3)]
    done = carried_out(Sticky(setting(0.5)), choices)
    draws = [uniforms(SEEDS, step, (2,), "audit", "sticky") < 0.5 for step in range(3)]
    second = np.where(draws[1], 1, 2)
    assert (done[0] == 1).all()
    assert np.array_equal(done[1], second)
    assert np.array_equal(done[2], np.where(draws[2], second, 3))
    assert draws[1].any()
    assert not draws[1].all()


def test_a_repeated_action_that_is_not_legal_any_more_becomes_doing_nothing():
    legal = np.ones((4, 2, 4), bool)
    legal[..., 3] = False
    choices = [np.full((4, 2), k) for k in (3, 2)]
    done = carried_out(Sticky(setting(1.0)), choices, [view(), view(legal=legal)])
    assert (done[1] == 0).all()


def test_a_delay_longer_than_any_episode_takes_no_more_memory_than_an_episode():
    delayed = Delay(setting(1e12))
    assert delayed.start(SEEDS)["waiting"].shape == (4, 6, 2)
    done = carried_out(delayed, [np.full((4, 2), 3)] * 6)
    assert (done == 0).all()
