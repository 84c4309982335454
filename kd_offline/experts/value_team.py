"""A team that acts by what its actions are worth: VDN (Sunehag et al., 2018), QMIX (Rashid, 2018).

Agents are those of :mod:`kd_offline.experts.team`, whose outputs are read as values instead of
logits. A mixer joins the values of the chosen actions to one value of the team, from which alone
they learn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.errors import UsageError
from kd_offline.experts.mixing import TeamValue
from kd_offline.experts.ppo import ValueNorm
from kd_offline.experts.team import ActorCritic, Memory, steps_that_count
from kd_offline.networks.mixers import MixerShape, QMixer, SumMixer, draw_weights
from kd_offline.policies import epsilon_greedy
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import QLearning, TrainRecipe
from kd_offline.types import BoolArray, IntArray, PolicyOutput, SeedArray, View


class ValueTeam(nn.Module):
    """Agents and mixer of one team.

    Parameters
    ----------
    spec, recipe
        What to build for and what to build.
    mask : bool [N, O], optional
        What the agents may see; the mixer sees the whole state, as it does not act.
    rng
        Draws the first weights; None leaves them arbitrary, for weights that are loaded next.

    Raises
    ------
    UsageError
        The agents have no common reward to learn from.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        recipe: TrainRecipe,
        mask: BoolArray | None,
        rng: np.random.Generator | None,
    ) -> None:
        super().__init__()
        if len(spec.sides) > 1:
            msg = (
                f"{recipe.algorithm} needs a team with one reward, and {spec.id} has the sides "
                f"{', '.join(spec.sides)}: choose mappo or ippo"
            )
            raise UsageError(msg)
        self.spec = spec
        self.architecture = recipe.architecture
        self.settings = recipe.q_learning or QLearning()
        self.agents = ActorCritic(spec, recipe.architecture, mask, rng)
        self.side_of = self.agents.side_of
        self.mixer = self._mixer(recipe.algorithm, rng)

    def _mixer(self, algorithm: str, rng: np.random.Generator | None) -> QMixer | SumMixer:
        if algorithm == "vdn":
            return SumMixer()
        shape = MixerShape(
            agents=self.spec.n_agents,
            state=self.spec.state_width,
            embedding=self.settings.mixer_embedding,
            weights_hidden=self.settings.mixer_hidden,
            value_hidden=self.settings.mixer_embedding,
            normalised=True,
        )
        mixer = QMixer(shape)
        if rng is not None:
            draw_weights(mixer, rng)
        return mixer

    def start(self, batch: int) -> Memory:
        """Return the memory of ``batch`` fresh episodes."""
        return self.agents.start(batch)

    def keep(self, memory: Memory, episodes: IntArray) -> Memory:
        """Return the memory of some episodes of a batch, indices ``episodes``."""
        return self.agents.keep(memory, episodes)

    def values(self, obs: Tensor, last_actions: Tensor, alive: Tensor) -> Tensor:
        """Return the values of all actions over whole episodes.

        ``obs``: float [T, B, N, O]; ``last_actions``: int64 [T, B, N], -1 where there is none;
        ``alive``: bool [T, B, N]. Returns float [T, B, N, A], zero once an agent stays dead.
        """
        return self.agents.act_episodes(obs, last_actions, steps_that_count(alive))

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of the agents and of the mixer."""
        return {
            "actor": sum(p.numel() for p in self.agents.parameters()),
            "mixer": sum(p.numel() for p in self.mixer.parameters()),
        }


@dataclass(frozen=True, slots=True)
class ValuePolicy:
    """A value team as a :class:`~kd_offline.types.TeamPolicy` that acts epsilon-greedily.

    ``norm`` holds the unit of the networks' values. Without ``with_value`` nothing is mixed.
    """

    model: ValueTeam
    norm: ValueNorm
    epsilon: float
    with_value: bool = True

    def start(self, seeds: SeedArray) -> Memory:
        """Return the memory of fresh episodes."""
        return self.model.start(len(seeds))

    @torch.inference_mode()
    def act(self, view: View, memory: Memory) -> tuple[PolicyOutput, Memory]:
        """Return values of actions [B, N, A], of the team [B], and logits to act by."""
        last = None if view.last_actions is None else torch.from_numpy(view.last_actions)
        q, embedding, after = self.model.agents.act(torch.from_numpy(view.obs), memory, last)
        logits = epsilon_greedy(q.numpy(), view.available_actions, self.epsilon)
        hidden, scale = embedding.numpy(), unit(self.norm)
        if not self.with_value:
            raw = (q * scale).numpy()
            return PolicyOutput(logits, hidden, q_values=raw), after
        alive = torch.from_numpy(view.alive)
        worth = TeamValue(self.model.mixer, q, torch.from_numpy(view.state), alive, scale)
        available = torch.from_numpy(view.available_actions)
        return worth.output(logits, hidden, available), after

    def keep(self, memory: Memory, episodes: IntArray) -> Memory:
        """Return the memory of some episodes of a batch."""
        return self.model.keep(memory, episodes)


def unit(norm: ValueNorm) -> float:
    """Return the size of one unit of the networks' values, in raw reward."""
    return float(norm.statistics(torch.zeros(1, dtype=torch.int64))[1])
