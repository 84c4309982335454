"""Settings and moments of perturbations, and a policy that keeps what it was shown."""

import numpy as np

from kd_offline.robustness.perturbations.base import ColumnScale, Moment, Setting
from kd_offline.testing.targets import TargetsPolicy, targets_spec
from kd_offline.types import PolicyOutput, View

SPEC = targets_spec()  # two agents of 4 and 5 numbers, 3 and 4 actions
SCALE = ColumnScale(
    np.arange(10, dtype=np.float32).reshape(2, 5),
    np.array([[1, 2, 3, 4, 0], [1, 2, 3, 4, 5]], np.float32),
)
SEEDS = np.array([3, 11, 25, 70], np.uint64)


def setting(strength, *, agents=(0, 1), spec=SPEC):
    return Setting(spec, agents, SCALE, strength)


def moment(perturbation, *, step=0, kept=None, seeds=SEEDS):
    kept = perturbation.start(seeds) if kept is None else kept
    return Moment(seeds, step, kept, TargetsPolicy(), None)


def view(obs=None, legal=None, batch=4):
    obs = np.ones((batch, 2, 5), np.float32) if obs is None else obs
    legal = np.ones((batch, 2, 4), bool) if legal is None else legal
    return View(obs, np.zeros((batch, 9), np.float32), legal, np.ones((batch, 2), bool))


def output(logits):
    return PolicyOutput(np.asarray(logits, np.float32))
