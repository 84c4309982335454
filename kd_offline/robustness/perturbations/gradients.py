"""White-box attacks on observations, by the gradient of the policy that is attacked.

The loss is the cross entropy of the action that the policy would take greedily, over its legal
actions. It is raised within a box around the observation, measured in standard deviations of every
feature in the dataset; what a policy does not see has no gradient and stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from kd_offline.robustness.perturbations.base import FARTHEST, Moment, Perturbation
from kd_offline.seeding import uniforms
from kd_offline.types import BoolArray, Float32Array, FloatArray, IntArray, View

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 10
"""Steps of PGD; each is 2.5 / STEPS of the box, so that every corner can be reached."""


@runtime_checkable
class Differentiable(Protocol):
    """A policy whose logits have a gradient by its observations."""

    @property
    def differentiable(self) -> bool:
        """Whether all agents' logits have one."""
        ...

    def differentiable_logits(self, obs: Tensor, view: View, memory: Any) -> Tensor:
        """Return the logits [B, N, A] for ``obs`` [B, N, O], with a graph; leave the memory alone.

        Everything else is that of ``view``. Both tensors lie on the processor.
        """
        ...


class _Attack(Perturbation):
    """Base of attacks within a box around the observation."""

    unit = "the largest change, in standard deviations of each feature in the dataset"
    strengths = (0.1, 0.3)
    largest = FARTHEST
    of_observations = True
    needs_gradients = True

    @property
    def box(self) -> Float32Array:
        """The largest change of each feature, float32 [N, O]."""
        return self.setting.strength * self.setting.scale.deviation


class Fgsm(_Attack):
    """One step along the sign of the gradient (Goodfellow et al., 2015; Huang et al., 2017)."""

    description = "observations moved once along the sign of the gradient, against the own action"

    def observations(self, view: View, moment: Moment) -> FloatArray:
        """Return the attacked observations."""
        greedy = _greedy(view, moment)
        return view.obs + self.box * np.sign(gradient(view.obs, greedy, view, moment))


class Pgd(_Attack):
    """Ten steps along the sign of the gradient, from a drawn start (Madry et al., 2018)."""

    description = "observations moved in ten steps along the sign of the gradient"

    def observations(self, view: View, moment: Moment) -> FloatArray:
        """Return the attacked observations."""
        greedy = _greedy(view, moment)
        box = self.box
        draws = uniforms(moment.seeds, moment.step, view.obs.shape[1:], "audit", "pgd")
        moved = box * (2 * draws - 1)
        for _ in range(STEPS):
            obs = (view.obs + moved).astype(np.float32)
            moved += 2.5 / STEPS * box * np.sign(gradient(obs, greedy, view, moment))
            moved = np.clip(moved, -box, box)
        return view.obs + moved


def gradient(obs: Float32Array, greedy: IntArray, view: View, moment: Moment) -> Float32Array:
    """Return the gradient of the cross entropy of ``greedy`` by ``obs``, float32 [B, N, O]."""
    import torch

    given = torch.from_numpy(np.ascontiguousarray(obs, np.float32)).requires_grad_()
    with torch.enable_grad():
        logits = _differentiable(moment).differentiable_logits(given, view, moment.memory)
        legal = torch.from_numpy(_legal(view))
        log_probabilities = torch.where(legal, logits, -torch.inf).log_softmax(-1)
        taken = torch.from_numpy(greedy).unsqueeze(-1)
        loss = -log_probabilities.gather(-1, taken).sum()
        (found,) = torch.autograd.grad(loss, given)
    return found.numpy()


def _greedy(view: View, moment: Moment) -> IntArray:
    """Return what the policy would do without the attack, int64 [B, N]."""
    import torch

    with torch.no_grad():
        given = torch.from_numpy(view.obs)
        logits = _differentiable(moment).differentiable_logits(given, view, moment.memory).numpy()
    return np.asarray(np.where(_legal(view), logits, -np.inf).argmax(-1), np.int64)


def _legal(view: View) -> BoolArray:
    """Return the legal actions, all of those of an agent that has none."""
    return view.available_actions | ~view.available_actions.any(-1, keepdims=True)


def _differentiable(moment: Moment) -> Differentiable:
    policy = moment.policy
    assert isinstance(policy, Differentiable)  # noqa: S101 - an audit declines others before
    return policy
