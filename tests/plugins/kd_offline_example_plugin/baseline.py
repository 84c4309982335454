"""A policy gradient with a learned baseline (REINFORCE, Williams, 1992)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from kd_offline.experts.algorithms.base import Recorded, State
from kd_offline.experts.algorithms.state import put_back, tensors_of
from kd_offline.experts.team import ActorCritic, steps_that_count
from kd_offline.experts.views import Seen
from kd_offline.networks.arithmetic import NetworkCost, ValuePart
from kd_offline.schemas.dataset import Capture
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe
from kd_offline.types import PolicyOutput


class Architecture(ExpertArchitecture):
    """Actors as ours; the baseline is a network of its own."""

    critic: Literal["none"] = "none"


class Recipe(TrainRecipe):
    """Shared settings, one of them with another default, and two of its own."""

    architecture: Architecture = Architecture()
    learning_rate: float = Field(default=3e-3, gt=0)
    baseline_width: int = Field(default=16, gt=0)
    baseline_learning_rate: float = Field(default=1e-2, gt=0)

    def widths(self):
        """Return every width that the recipe states."""
        return (*super().widths(), self.baseline_width)


class Networks(nn.Module):
    """Actors, and a baseline of the state."""

    def __init__(self, spec, recipe, mask, rng):
        super().__init__()
        self.actors = ActorCritic(spec, recipe.architecture, mask, rng)
        width = recipe.baseline_width
        state = sum(spec.obs_widths) if spec.state_is_obs else spec.state_width
        self.baseline = nn.Sequential(nn.Linear(state, width), nn.Tanh(), nn.Linear(width, 1))
        if rng is not None:
            for parameter in self.baseline.parameters():
                drawn = torch.from_numpy(rng.normal(0, 0.1, parameter.shape)).float()
                parameter.data.copy_(drawn)


class Team:
    """The networks of one expert."""

    def __init__(self, networks):
        self.networks = networks
        self.actors = networks.actors

    def weights(self):
        """Return everything that is saved."""
        return self.networks.state_dict()

    def load(self, weights):
        """Take over what :meth:`weights` returned."""
        self.networks.load_state_dict(dict(weights))
        self.networks.requires_grad_(False)

    def parameter_counts(self):
        """Return the number of parameters of each part."""
        parts = {"actor": self.actors, "baseline": self.networks.baseline}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    def policy(self, *, with_value=True):
        """Return how it plays."""
        return Policy(self.networks, with_value)

    def value_parts(self):
        """Return the cost of the baseline, which runs once in a step of the team."""
        first, _, last = self.networks.baseline
        macs = first.weight.numel() + last.weight.numel()
        width = first.out_features
        return (ValuePart(NetworkCost(macs + width + 1, macs, 2 * width + 1)),)


class Policy:
    """Samples by the actors' logits; the baseline is the value of every agent."""

    def __init__(self, networks, with_value):
        self.networks, self.with_value = networks, with_value

    def start(self, seeds):
        """Return the memory of fresh episodes."""
        return self.networks.actors.start(len(seeds))

    @torch.inference_mode()
    def act(self, view, memory):
        """Return logits, embeddings and values."""
        last = None if view.last_actions is None else torch.from_numpy(view.last_actions)
        actors = self.networks.actors
        logits, embedding, memory, _ = actors.act(Seen.of(view), memory, last)
        value = None
        if self.with_value:
            said = self.networks.baseline(torch.from_numpy(view.state))
            value = said.repeat(1, logits.shape[1]).numpy()
        return PolicyOutput(logits.numpy(), embedding.numpy(), value), memory


class Learner:
    """Two networks, two optimisers, a counter and the best return so far."""

    against = "itself"

    def __init__(self, team, recipe):
        self.team, self.recipe = team, recipe
        networks = team.networks
        self.policy_optimiser = torch.optim.Adam(networks.actors.parameters())
        self.baseline_optimiser = torch.optim.RMSprop(
            networks.baseline.parameters(), recipe.baseline_learning_rate, momentum=0.5
        )
        self.batches, self.best = 0, None

    def policy(self, moment):
        """Return who plays the batch."""
        return self.team.policy(with_value=False)

    def learn(self, trajectories, moment):
        """Take one step of each optimiser."""
        steps = {name: torch.from_numpy(values) for name, values in trajectories.steps.items()}
        valid = torch.from_numpy(trajectories.valid)
        reward = steps["reward"].mean(-1) * valid
        returns, after = torch.zeros_like(reward), torch.zeros(reward.shape[1])
        for t in reversed(range(len(reward))):
            after = returns[t] = reward[t] + self.recipe.gamma * after
        networks = self.team.networks
        baseline = networks.baseline(steps["state"]).squeeze(-1)
        error = ((baseline - returns).square() * valid).sum() / valid.sum()
        acts = steps["alive"] & valid.unsqueeze(-1)
        before = torch.cat([torch.full_like(steps["actions"][:1], -1), steps["actions"][:-1]])
        seen = Seen(steps["obs"], steps["state"], steps.get("obs_full"))
        logits = networks.actors.act_episodes(seen, before, steps_that_count(acts))
        logp = logits.masked_fill(~steps["available_actions"], -1e10).log_softmax(-1)
        taken = logp.gather(-1, steps["actions"].unsqueeze(-1)).squeeze(-1)
        gain = taken * (returns - baseline.detach()).unsqueeze(-1) * acts
        for group in self.policy_optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * moment.remaining
        for optimiser, loss in (
            (self.policy_optimiser, -gain.sum() / acts.sum()),
            (self.baseline_optimiser, error),
        ):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        mean = float(returns[0].mean())
        self.batches, self.best = self.batches + 1, max(mean, self.best or mean)
        return {"baseline_loss": float(error.detach()), "best_return": self.best}

    def state(self):
        """Return all that learning changes."""
        return State(tensors_of(self._parts()), {"batches": self.batches, "best": self.best})

    def restore(self, tensors, plain):
        """Put it back."""
        put_back(self._parts(), tensors)
        self.batches, self.best = plain["batches"], plain["best"]

    def _parts(self):
        return {
            "networks": self.team.networks,
            "adam": self.policy_optimiser,
            "rmsprop": self.baseline_optimiser,
        }


class Baseline:
    """REINFORCE with a baseline, for teams with one reward."""

    description = "policy gradient with a learned baseline of the state"
    recipe = Recipe
    figures: ClassVar = {
        "baseline_loss": "mean squared error of the baseline",
        "best_return": "best mean discounted return of a batch so far",
    }

    def recorded(self, recipe):
        """Return what a recording says of its outputs."""
        meaning = "discounted sum of the team's mean reward, raw units"
        return Recorded(Capture(embedding=recipe.architecture.embedding), meaning)

    def team(self, spec, recipe, mask, rng):
        """Return networks; ``rng`` draws their first weights."""
        return Team(Networks(spec, recipe, mask, rng))

    def learner(self, team, spec, recipe):
        """Return what trains them."""
        return Learner(team, recipe)


ALGORITHM = Baseline()
