"""From the file to what the losses need, computed once per dataset.

Everything is indexed [E, T, ...]; a batch is a choice of episodes, returned time-major.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from kd_offline.advantage import generalised_advantage, side_mean
from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.layout import SOURCES
from kd_offline.distillation.losses import actions_outermost, cosine_relations, log_policy
from kd_offline.distillation.methods import needed_arrays
from kd_offline.distillation.roles import RoleModel
from kd_offline.errors import UsageError
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.seeding import uniforms
from kd_offline.students.networks import InputScale, StudentTeam, one_hot
from kd_offline.types import Array, FloatArray, IntArray

MINIMUM_R2 = 0.3


@dataclass(frozen=True, slots=True)
class Targets:
    """Inputs and targets of ``E`` episodes, [E, T, ...]; of a batch, [T, B, ...].

    Fields that the recipe does not use are None. ``weight`` is 1 where an agent's decision counts.
    """

    inputs: Tensor  # [E, T, N, O'], scaled and masked
    last_actions: Tensor  # one-hot [E, T, N, A], zero in the first step; empty where not used
    available: Tensor  # bool [E, T, N, A]
    weight: Tensor  # [E, T, N]
    both: Tensor  # [E, T, N], 1 where an agent is alive, forced decisions included
    expert: Tensor | None = None  # log probabilities at temperature 1, [E, T, N, A]
    softened: Tensor | None = None  # log probabilities at the recipe's temperature
    label: Tensor | None = None  # int64 [E, T, N], the action that cross entropy asks for
    cloned: Tensor | None = None  # [E, T, N], 1 where cross entropy counts; None: as weight
    executed: Tensor | None = None  # int64 [E, T, N]
    behaviour: Tensor | None = None  # log probability of the executed action, [E, T, N]
    advantage: Tensor | None = None  # normalised, [E, T, N]
    relations: Tensor | None = None  # cosines of pairs of the expert's embeddings, [E, T, P]
    roles: Tensor | None = None  # log role distributions of the expert, [E, T, N, K]

    def take(self, episodes: IntArray) -> Targets:
        """Return a time-major batch of the given episodes."""
        rows = torch.from_numpy(episodes)
        present = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return Targets(**{name: _arranged(name, v[rows]) for name, v in present.items()})

    def __len__(self) -> int:
        return len(self.inputs)


def _arranged(name: str, values: Tensor) -> Tensor:
    """Return ``values`` [B, T, ...] time-major, laid out as the losses read them."""
    values = values.transpose(0, 1)
    return actions_outermost(values) if name in _BY_ACTION else values.contiguous()


_BY_ACTION = ("available", "expert", "softened", "relations", "roles")


def input_scale(buffer: ExpertBuffer, episodes: IntArray) -> InputScale:
    """Return the statistics of the observations of alive agents and of their changes."""
    data, valid = buffer.padded(["steps/obs", "steps/alive"], episodes)
    obs, alive = data["steps/obs"], data["steps/alive"] & valid[..., None]
    mean, std = _moments(obs, alive)
    _, motion = _moments(obs[:, 1:] - obs[:, :-1], alive[:, 1:] & alive[:, :-1])
    return InputScale(mean, std, motion)


def _moments(values: Array, where: Array) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation over episodes and steps, [N, O] each."""
    weight = where[..., None].astype(np.float64)
    total = weight.sum((0, 1)).clip(1)
    mean = (values * weight).sum((0, 1)) / total
    return mean, np.sqrt((np.square(values - mean) * weight).sum((0, 1)) / total)


def build_targets(
    buffer: ExpertBuffer,
    episodes: IntArray,
    recipe: DistillRecipe,
    team: StudentTeam,
    roles: RoleModel | None,
) -> Targets:
    """Read what the recipe needs of ``episodes`` and compute its targets.

    Raises
    ------
    UsageError
        The policy term is on and the recorded critic explains too little of the returns.
    """
    names = [name for name in needed_arrays(recipe) if name.startswith("steps/")]
    if team.inputs.last_action:
        names.append("steps/actions")
    if recipe.weights.ce and buffer.has("steps/action_source"):
        names.append("steps/action_source")
    names = list(dict.fromkeys(names))
    data, valid = buffer.padded(names, episodes)
    alive = torch.from_numpy(data["steps/alive"] & valid[..., None])
    # An agent that is absent has no legal action; give it all, so that its softmax is defined.
    available = torch.from_numpy(data["steps/available_actions"]) | ~alive.unsqueeze(-1)
    forced = available.sum(-1) < 2
    counts = alive & ~forced if recipe.switches.drop_forced else alive
    expert, softened = _policies(data, available, recipe)
    executed = _column(data, "steps/actions")
    return Targets(
        inputs=_inputs(buffer, episodes, data["steps/obs"], recipe.mask, team),
        last_actions=_last_actions(data, available, team),
        available=available,
        weight=counts.float(),
        both=alive.float(),
        expert=expert,
        softened=softened,
        label=_labels(buffer, episodes, expert, executed, recipe),
        cloned=_cloned(data, counts.float(), recipe),
        executed=None if executed is None else executed.long(),
        behaviour=_column(data, "steps/behaviour_logprob"),
        advantage=_advantages(buffer, episodes, data, counts.float(), recipe),
        relations=_relations(data, recipe),
        roles=None if roles is None else roles.log_roles(data["steps/embedding"]),
    )


def _column(data: dict[str, Array], name: str) -> Tensor | None:
    return torch.from_numpy(data[name]) if name in data else None


def _inputs(
    buffer: ExpertBuffer, episodes: IntArray, obs: Array, mask: str, team: StudentTeam
) -> Tensor:
    seen = torch.from_numpy(buffer.mask(mask).astype(np.float32))
    if seen.dim() == 3:
        seen = seen[torch.from_numpy(episodes)].unsqueeze(1)
    with torch.no_grad():
        return team.prepare(torch.from_numpy(obs), seen)


def _last_actions(data: dict[str, Array], available: Tensor, team: StudentTeam) -> Tensor:
    if not team.inputs.last_action:
        return torch.zeros((*available.shape[:2], 0))
    taken = one_hot(data["steps/actions"].astype(np.int64), tuple(available.shape))
    return torch.cat([torch.zeros_like(taken[:, :1]), taken[:, :-1]], 1)


def _policies(
    data: dict[str, Array], available: Tensor, recipe: DistillRecipe
) -> tuple[Tensor | None, Tensor | None]:
    if "steps/logits" not in data:
        return None, None
    logits = torch.from_numpy(data["steps/logits"])
    expert = log_policy(logits, available)
    temperature = recipe.switches.temperature
    if not recipe.weights.kl or temperature == 1.0:
        return expert, expert if recipe.weights.kl else None
    return expert, log_policy(logits, available, temperature)


def _labels(
    buffer: ExpertBuffer,
    episodes: IntArray,
    expert: Tensor | None,
    executed: Tensor | None,
    recipe: DistillRecipe,
) -> Tensor | None:
    target = recipe.switches.ce_target
    if not recipe.weights.ce or target == "soft":
        return None
    if target == "executed":
        return None if executed is None else executed.long()
    if expert is None:
        return None
    if target == "argmax":
        return expert.argmax(-1)
    seeds = buffer.episodes("seed")[episodes].astype(np.uint64)
    draws = torch.from_numpy(uniforms(seeds, 0, tuple(expert.shape[1:3]), "distillation label"))
    reached = expert.double().exp().cumsum(-1)
    return (reached > draws.unsqueeze(-1) * reached[..., -1:]).long().argmax(-1)


def _cloned(data: dict[str, Array], weight: Tensor, recipe: DistillRecipe) -> Tensor | None:
    """Return where an executed action may be cloned: not where noise or a partner chose it."""
    if recipe.switches.ce_target != "executed" or "steps/action_source" not in data:
        return None
    return weight * torch.from_numpy(data["steps/action_source"] == SOURCES["expert"])


def _advantages(
    buffer: ExpertBuffer,
    episodes: IntArray,
    data: dict[str, Array],
    weight: Tensor,
    recipe: DistillRecipe,
) -> Tensor | None:
    if "steps/value" not in data:
        return None
    switches, critic = recipe.switches, buffer.manifest.experts[0]
    step = {n: torch.from_numpy(data[f"steps/{n}"]).transpose(0, 1) for n in _ADVANTAGE_ARRAYS}
    reward = side_mean(step["reward"], torch.tensor(buffer.spec.side_of))
    final = torch.from_numpy(buffer.load(["final/value"], episodes)["final/value"])
    gamma = switches.gamma if switches.gamma is not None else critic.gamma or 0.99
    bootstrap = switches.bootstrap_on_truncation
    if bootstrap is None:
        bootstrap = bool(critic.bootstraps_truncation)

    def estimate(gae_lambda: float, horizon: int | None) -> Tensor:
        return generalised_advantage(
            reward,
            step["value"],
            final,
            step["terminated"],
            step["truncated"],
            gamma=gamma,
            gae_lambda=gae_lambda,
            bootstrap_on_truncation=bootstrap,
            horizon=horizon,
        ).transpose(0, 1)

    error, value = estimate(1.0, None), step["value"].transpose(0, 1)
    _check_critic(explained_variance(error, value, weight))
    advantage = estimate(switches.gae_lambda, switches.gae_horizon)
    return _standardised(advantage, weight)


_ADVANTAGE_ARRAYS = ("reward", "value", "terminated", "truncated")


def explained_variance(error: Tensor, value: Tensor, weight: Tensor) -> float:
    """Return R squared of a critic: ``error`` is the discounted return minus ``value``."""
    total = weight.sum().clamp(min=1)
    returns = error + value
    centred = returns - (returns * weight).sum() / total
    residual = (error.square() * weight).sum()
    return float(1 - residual / (centred.square() * weight).sum().clamp(min=1e-12))


def _check_critic(r2: float) -> None:
    if r2 < MINIMUM_R2:
        msg = (
            f"the recorded critic explains {r2:.2f} of the variance of the returns, and the "
            f"policy-gradient term needs at least {MINIMUM_R2}: distil with --policy-term none, "
            "or record an expert whose critic fits its rewards"
        )
        raise UsageError(msg)


def _standardised(advantage: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum().clamp(min=1)
    centred = advantage - (advantage * weight).sum() / total
    spread = ((centred.square() * weight).sum() / total).sqrt()
    return centred / (spread + 1e-8)


def _relations(data: dict[str, Array], recipe: DistillRecipe) -> Tensor | None:
    if not recipe.weights.structure:
        return None
    embedding = data["steps/embedding"]
    centre = embedding.mean((0, 1), dtype=np.float64) if recipe.switches.centre else 0.0
    parts = np.array_split(embedding, 1 + len(embedding) // 1024)
    return torch.cat(
        [
            cosine_relations(torch.from_numpy((p - centre).astype(np.float32)).unbind(-2))
            for p in parts
        ]
    )
