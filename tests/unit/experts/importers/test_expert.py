"""What a policy of the user's own says is checked at every step; what it keeps is its own."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.errors import MismatchError, UserCodeError
from kd_offline.experts.load import load as load_expert
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.types import PolicyOutput


def load(*given: Any, **settings: Any) -> Any:
    return load_expert(*given, **settings)


SPREAD = environments.load("mpe/simple_spread_v3").spec
SEEDS = np.arange(4, dtype=np.uint64)
SAYS: dict = {}


class Policy:
    """Says what the test wants it to say in step 3."""

    def __init__(self, spec):
        self.logits = np.zeros((2, 3, 5), np.float32)

    def start(self, seeds):
        return 0

    def act(self, view, step):
        shape = view.available_actions.shape
        usual = PolicyOutput(np.full(shape, step, np.float32)), step + 1
        return SAYS["odd"](view, usual) if step == SAYS["step"] else usual


def play(odd, step=3):
    SAYS.update(odd=odd, step=step)
    expert = load(f"python:{__name__}:Policy", SPREAD)
    environment = environments.load("mpe/simple_spread_v3")
    return collect(environment, expert, SEEDS, sampled(SEEDS))


def said(logits=None, **more):
    """Return what says ``logits`` of a view, or zeros."""

    def odd(view, usual):
        given = np.zeros_like(usual[0].logits) if logits is None else logits(usual[0].logits)
        return PolicyOutput(given, **{name: make(view) for name, make in more.items()}), 4

    return odd


def first(value):
    def filled(logits):
        logits[2, 1, 0] = value
        return logits

    return filled


def fail(error):
    def odd(view, usual):
        raise error

    return odd


@pytest.mark.parametrize(
    ("odd", "error", "says"),
    [
        (fail(ValueError("no\nway")), UserCodeError, "failed in act .step 3.: ValueError: no way"),
        (fail(SystemExit(0)), UserCodeError, "failed in act .step 3.: SystemExit: 0"),
        (fail(StopIteration()), UserCodeError, "failed in act .step 3.: StopIteration"),
        (lambda view, usual: usual[0], MismatchError, "returned PolicyOutput from act in step 3"),
        (lambda view, usual: (usual[0].logits, 4), MismatchError, r"returned \(ndarray, int\)"),
        (lambda view, usual: None, MismatchError, "returned NoneType from act in step 3"),
        (said(lambda logits: logits.tolist()), MismatchError, "gives logits as list in step 3"),
        (said(lambda logits: logits[:2]), MismatchError, r"logits of shape \(2, 3, 5\)"),
        (said(lambda logits: logits[..., :4]), MismatchError, r"logits of shape \(4, 3, 4\)"),
        (said(lambda logits: logits.astype(float)), MismatchError, "and type float64 in step 3"),
        (said(first(np.nan)), UserCodeError, r"\(nan\) in step 3 \(agent 1, episode 2"),
        (said(first(np.inf)), UserCodeError, r"gives logits that are not finite \(inf\)"),
        (said(lambda x: x - np.float32(np.inf)), UserCodeError, r"not finite \(-inf\) in step 3"),
        (said(value=lambda view: np.zeros((4, 2), np.float32)), MismatchError, "gives value of"),
        (said(value=lambda view: [0.0] * 4), MismatchError, "gives value as list in step 3"),
        (said(embedding=lambda view: np.zeros((4, 3), np.float32)), MismatchError, "axes .B, N, H"),
        (said(value=lambda view: np.zeros((4, 3), np.float32)), MismatchError, "steps/value"),
    ],
)
def test_what_does_not_fit_is_told_with_the_step(odd, error, says):
    with pytest.raises(error, match=says) as caught:
        play(odd)
    assert "\n" not in str(caught.value)


class Unready(Policy):
    """Fails where memories of fresh episodes are asked for."""

    def start(self, seeds):
        raise SystemExit(0)


def test_a_policy_that_fails_to_start_is_told():
    with pytest.raises(UserCodeError, match=r"failed in start .*SystemExit: 0"):
        load(f"python:{__name__}:Unready", SPREAD)


def test_an_interrupt_within_a_policy_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt):
        play(fail(KeyboardInterrupt()))


def test_a_policy_may_use_its_arrays_again_and_write_to_what_it_sees():
    def odd(view, usual):
        view.obs[:] = np.nan
        view.alive[:] = False
        return usual

    usual, written = play(odd, -1), play(odd)
    for name, values in usual.steps.items():
        np.testing.assert_array_equal(written.steps[name], values)
    kept = np.zeros((4, 3, 5), np.float32)

    class Thrifty(Policy):
        def act(self, view, step):
            kept[:] = step
            return PolicyOutput(kept[: len(view.obs)]), step + 1

    SAYS["step"] = -1
    expert = load(f"python:{__name__}:Policy", SPREAD)
    expert = replace(expert, policy=Thrifty(SPREAD))
    played = collect(environments.load(SPREAD.id), expert, SEEDS, sampled(SEEDS))
    assert played.steps["logits"][:, 0, 0, 0].tolist() == list(range(25))
