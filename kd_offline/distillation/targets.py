"""What the losses need of episodes: the same function for all at once and for a batch of them.

Everything is indexed [E, T, ...]; a batch is a choice of episodes, returned time-major.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.layout import SOURCES
from kd_offline.datasets.loading.loader import Batch
from kd_offline.datasets.sampler import epoch_order
from kd_offline.distillation.advantages import advantages
from kd_offline.distillation.losses import actions_outermost, cosine_relations, log_policy
from kd_offline.distillation.measures import Measures, deciding
from kd_offline.distillation.methods import needed_arrays
from kd_offline.distillation.roles import RoleModel
from kd_offline.distillation.values import state_value, value_logits
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.seeding import uniforms
from kd_offline.students.networks import StudentTeam, one_hot
from kd_offline.types import Array, IntArray


@dataclass(frozen=True, slots=True)
class Lesson:
    """What turns episodes into targets: the same for all of them."""

    spec: EnvironmentSpec
    critic: ExpertRecord | None
    recipe: DistillRecipe
    measures: Measures
    team: StudentTeam  # only its way of taking inputs matters
    roles: RoleModel | None


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
    baseline: Tensor | None = None  # mean Q-value of the legal actions, normalised, [E, T, N]
    relations: Tensor | None = None  # cosines of pairs of the expert's embeddings, [E, T, P]
    roles: Tensor | None = None  # log role distributions of the expert, [E, T, N, K]

    def take(self, episodes: IntArray) -> Targets:
        """Return a time-major batch of the given episodes."""
        rows = torch.from_numpy(episodes)
        # Transposed first, so that one copy gathers and arranges.
        taken = {name: v.transpose(0, 1)[:, rows] for name, v in self.tensors().items()}
        return Targets(**{name: _arranged(name, v) for name, v in taken.items()})

    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[Targets]:
        """Yield the batches of ``size`` episodes of an epoch, in its order."""
        order = epoch_order(np.arange(len(self)), seed, epoch)
        for first in range(0, len(order) - size + 1, size):
            yield self.take(order[first : first + size])

    def parts(self, size: int) -> Iterator[Targets]:
        """Yield all episodes in the order of the file, ``size`` or fewer at a time."""
        for first in range(0, len(self), size):
            yield self.take(np.arange(first, min(first + size, len(self))))

    def batch(self) -> Targets:
        """Return everything as one time-major batch."""
        everything = self.tensors().items()
        return Targets(**{name: _arranged(name, v.transpose(0, 1)) for name, v in everything})

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are not None, by name."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}

    def __len__(self) -> int:
        return len(self.inputs)


def _arranged(name: str, values: Tensor) -> Tensor:
    """Return ``values`` [T, B, ...] laid out as the losses read them."""
    return actions_outermost(values) if name in _BY_ACTION else values.contiguous()


_BY_ACTION = ("available", "expert", "softened", "relations", "roles")


def arrays_to_read(buffer: ExpertBuffer, recipe: DistillRecipe) -> list[str]:
    """Return the names of the arrays that :func:`build_targets` takes from a batch."""
    names = [*needed_arrays(recipe, buffer.names), "steps/actions", f"masks/{recipe.mask}"]
    if recipe.weights.ce and buffer.has("steps/action_source"):
        names.append("steps/action_source")
    if recipe.weights.ce and recipe.switches.ce_target == "sampled":
        names.append("episodes/seed")
    return list(dict.fromkeys(names))


def build_targets(batch: Batch, lesson: Lesson) -> Targets:
    """Compute the inputs and targets of whole episodes, [B, T, ...]."""
    data, recipe = batch.arrays, lesson.recipe
    living = data["steps/alive"] & batch.valid[..., None]
    alive = torch.from_numpy(living)
    # An agent that is absent has no legal action; give it all, so that its softmax is defined.
    available = torch.from_numpy(data["steps/available_actions"]) | ~alive.unsqueeze(-1)
    counts = torch.from_numpy(deciding(data, living, recipe.switches)).float()
    expert, softened = _policies(data, available, lesson)
    needed = needed_arrays(recipe, data)
    executed = torch.from_numpy(data["steps/actions"]).long()
    return Targets(
        inputs=_inputs(data, lesson),
        last_actions=_last_actions(data, available, lesson.team),
        available=available,
        weight=counts,
        both=alive.float(),
        expert=expert,
        softened=softened,
        label=_labels(data, expert, executed, recipe),
        cloned=_cloned(data, counts, recipe),
        executed=executed if "steps/actions" in needed else None,
        behaviour=_column(data, "steps/behaviour_logprob"),
        advantage=_advantages(data, lesson),
        baseline=_baseline(data, available, lesson),
        relations=_relations(data, lesson),
        roles=None if lesson.roles is None else lesson.roles.log_roles(data["steps/embedding"]),
    )


def _column(data: dict[str, Array], name: str) -> Tensor | None:
    return torch.from_numpy(data[name]) if name in data else None


def _inputs(data: dict[str, Array], lesson: Lesson) -> Tensor:
    seen = torch.from_numpy(data[f"masks/{lesson.recipe.mask}"].astype(np.float32))
    if seen.dim() == 3:
        seen = seen.unsqueeze(1)
    with torch.no_grad():
        return lesson.team.prepare(torch.from_numpy(data["steps/obs"]), seen)


def _last_actions(data: dict[str, Array], available: Tensor, team: StudentTeam) -> Tensor:
    if not team.inputs.last_action:
        return torch.zeros((*available.shape[:2], 0))
    taken = one_hot(data["steps/actions"].astype(np.int64), tuple(available.shape))
    return torch.cat([torch.zeros_like(taken[:, :1]), taken[:, :-1]], 1)


def _policies(
    data: dict[str, Array], available: Tensor, lesson: Lesson
) -> tuple[Tensor | None, Tensor | None]:
    recipe, scale = lesson.recipe, lesson.measures.q_scale
    if scale is not None and "steps/q_values" in data:
        q = torch.from_numpy(data["steps/q_values"])
        unit = torch.from_numpy(scale.astype(np.float32))
        logits = value_logits(q, available, unit, recipe.switches)
    elif "steps/logits" in data:
        logits = torch.from_numpy(data["steps/logits"])
    else:
        return None, None
    expert = log_policy(logits, available)
    temperature = recipe.switches.temperature
    if not recipe.weights.kl or temperature == 1.0:
        return expert, expert if recipe.weights.kl else None
    return expert, log_policy(logits, available, temperature)


def _labels(
    data: dict[str, Array], expert: Tensor | None, executed: Tensor, recipe: DistillRecipe
) -> Tensor | None:
    target = recipe.switches.ce_target
    if not recipe.weights.ce or target == "soft":
        return None
    if target == "executed":
        return executed
    if expert is None:
        return None
    if target == "argmax":
        return expert.argmax(-1)
    seeds = data["episodes/seed"].astype(np.uint64)
    draws = torch.from_numpy(uniforms(seeds, 0, tuple(expert.shape[1:3]), "distillation label"))
    reached = expert.double().exp().cumsum(-1)
    return (reached > draws.unsqueeze(-1) * reached[..., -1:]).long().argmax(-1)


def _cloned(data: dict[str, Array], weight: Tensor, recipe: DistillRecipe) -> Tensor | None:
    """Return where an executed action may be cloned: not where noise or a partner chose it."""
    if recipe.switches.ce_target != "executed" or "steps/action_source" not in data:
        return None
    return weight * torch.from_numpy(data["steps/action_source"] == SOURCES["expert"])


def _advantages(data: dict[str, Array], lesson: Lesson) -> Tensor | None:
    if "steps/value" not in data or lesson.critic is None:
        return None
    raw = advantages(data, lesson.spec, lesson.critic, lesson.recipe.switches)
    found = lesson.measures.advantage
    return raw if found is None else found.normalised(raw)


def _baseline(data: dict[str, Array], available: Tensor, lesson: Lesson) -> Tensor | None:
    found = lesson.measures.state_value
    if not lesson.recipe.student.dueling or found is None:
        return None
    return found.normalised(state_value(torch.from_numpy(data["steps/q_values"]), available))


def _relations(data: dict[str, Array], lesson: Lesson) -> Tensor | None:
    if not lesson.recipe.weights.structure:
        return None
    embedding, centre = data["steps/embedding"], lesson.measures.centre
    parts = np.array_split(embedding, 1 + len(embedding) // 1024)
    shifted = (part if centre is None else part - centre for part in parts)
    return torch.cat(
        [
            cosine_relations(torch.from_numpy(p.astype(np.float32)).unbind(-2), lesson.spec.side_of)
            for p in shifted
        ]
    )
