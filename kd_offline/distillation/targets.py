"""What the losses need of episodes: the same function for all at once and for a batch of them.

Everything is indexed by step [S, ...], whole episodes one after the other. In a batch the steps are
packed: the first of every episode, then the second of all that have one, the longest episode first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.layout import SOURCES
from kd_offline.datasets.loading.loader import Batch
from kd_offline.datasets.sampler import epoch_order
from kd_offline.distillation.advantages import advantages
from kd_offline.distillation.losses import cosine_relations, log_policy
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
    """Inputs and targets of the ``S`` steps of some episodes.

    Fields that the recipe does not use are None. ``weight`` is 1 where an agent's decision counts.
    """

    inputs: Tensor  # [S, N, O'], scaled and masked
    last_actions: Tensor  # one-hot [S, N, A], zero in the first step; empty where not used
    available: Tensor  # bool [S, N, A]
    weight: Tensor  # [S, N]
    both: Tensor  # [S, N], 1 where an agent is alive, forced decisions included
    expert: Tensor | None = None  # log probabilities at temperature 1, [S, N, A]
    softened: Tensor | None = None  # log probabilities at the recipe's temperature
    label: Tensor | None = None  # int64 [S, N], the action that cross entropy asks for
    cloned: Tensor | None = None  # [S, N], 1 where cross entropy counts; None: as weight
    executed: Tensor | None = None  # int64 [S, N]
    behaviour: Tensor | None = None  # log probability of the executed action, [S, N]
    advantage: Tensor | None = None  # normalised, but for crr as estimated, [S, N]
    baseline: Tensor | None = None  # mean Q-value of the legal actions, normalised, [S, N]
    relations: Tensor | None = None  # cosines of pairs of the expert's embeddings, [S, P]
    roles: Tensor | None = None  # log role distributions of the expert, [S, N, K]

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are not None, by name."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}


class PackedTargets(NamedTuple):
    """A batch of whole episodes."""

    targets: Targets
    sizes: list[int]  # how many episodes have each step; never growing, sum S


@dataclass(frozen=True, slots=True)
class Taught:
    """Whole episodes, one after the other, ``lengths`` [E] of them; batches gather their steps."""

    targets: Targets
    lengths: IntArray

    @classmethod
    def of(cls, parts: Iterable[Taught], lengths: IntArray) -> Taught:
        """Join ``parts``, which have episodes of ``lengths`` in all."""
        held: dict[str, Tensor] = {}
        done = 0
        for part in parts:
            steps = slice(done, done + int(part.lengths.sum()))
            for name, values in part.targets.tensors().items():
                if name not in held:
                    held[name] = _room(name, int(lengths.sum()), values)
                held[name][steps] = values
            done = steps.stop
        return cls(Targets(**held), lengths)

    def take(self, episodes: IntArray) -> PackedTargets:
        """Return a batch of the given episodes."""
        starts = np.cumsum(self.lengths) - self.lengths
        rows, sizes = _packing(starts[episodes], self.lengths[episodes])
        taken = {
            # The steps of what has actions outermost in memory are its second axis there.
            name: v.movedim(-1, 0).index_select(1, rows).movedim(0, -1)
            if name in _BY_ACTION
            else v.index_select(0, rows)
            for name, v in self.targets.tensors().items()
        }
        return PackedTargets(Targets(**taken), sizes)

    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[PackedTargets]:
        """Yield the batches of ``size`` episodes of an epoch, in its order."""
        order = epoch_order(np.arange(len(self)), seed, epoch)
        for first in range(0, len(order) - size + 1, size):
            yield self.take(order[first : first + size])

    def parts(self, size: int) -> Iterator[PackedTargets]:
        """Yield all episodes in the order of the file, ``size`` or fewer at a time."""
        for first in range(0, len(self), size):
            yield self.take(np.arange(first, min(first + size, len(self))))

    def packed(self) -> PackedTargets:
        """Return everything as one batch."""
        return self.take(np.arange(len(self)))

    def __len__(self) -> int:
        return len(self.lengths)


_BY_ACTION = ("available", "expert", "softened", "relations", "roles")


def _room(name: str, steps: int, like: Tensor) -> Tensor:
    """Return memory for ``steps`` steps of values ``like`` [S, ...], as the losses read them."""
    rest = like.shape[1:]
    if name not in _BY_ACTION:
        return like.new_empty((steps, *rest))
    return like.new_empty((rest[-1], steps, *rest[:-1])).movedim(0, -1)


def _packing(starts: IntArray, lengths: IntArray) -> tuple[Tensor, list[int]]:
    """Return the rows of packed episodes that begin at rows ``starts``, and the sizes of steps."""
    longest_first = np.argsort(-lengths, kind="stable")
    there = np.arange(lengths.max())[:, None] < lengths[longest_first]
    rows = np.arange(len(there))[:, None] + starts[longest_first]
    return torch.from_numpy(rows[there]), there.sum(1).tolist()


def arrays_to_read(buffer: ExpertBuffer, recipe: DistillRecipe) -> list[str]:
    """Return the names of the arrays that :func:`build_targets` takes from a batch."""
    names = [*needed_arrays(recipe, buffer.names), "steps/actions", f"masks/{recipe.mask}"]
    if recipe.weights.ce and buffer.has("steps/action_source"):
        names.append("steps/action_source")
    if recipe.weights.ce and recipe.switches.ce_target == "sampled":
        names.append("episodes/seed")
    return list(dict.fromkeys(names))


def build_targets(batch: Batch, lesson: Lesson) -> Taught:
    """Compute the inputs and targets of whole episodes."""
    there = torch.from_numpy(batch.valid)
    padded = _padded(batch, lesson)
    steps = {name: values[there] for name, values in padded.tensors().items()}
    return Taught(Targets(**steps), batch.valid.sum(1))


def _padded(batch: Batch, lesson: Lesson) -> Targets:
    """Compute everything as [B, T, ...], what is behind an episode's end included."""
    data, recipe = dict(batch.arrays), lesson.recipe
    living = data["steps/alive"] & batch.valid[..., None]
    alive = torch.from_numpy(living)
    for name in _OF_DECISIONS & data.keys():
        data[name] = np.where(living, data[name], data[name].dtype.type(0))
    # An agent that is absent or waits has no legal action; give it all, so that its softmax is
    # defined.
    legal = torch.from_numpy(data["steps/available_actions"])
    available = legal | ~(alive & legal.any(-1)).unsqueeze(-1)
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
        advantage=_advantages(data, alive, lesson),
        baseline=_baseline(data, available, lesson),
        relations=_relations(data, lesson),
        roles=None if lesson.roles is None else lesson.roles.log_roles(data["steps/embedding"]),
    )


# Of agents that are not alive any finite number may be there, which no weight of zero makes
# harmless behind an exponential or as an index.
_OF_DECISIONS = frozenset(("steps/actions", "steps/behaviour_logprob"))


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


def _advantages(data: dict[str, Array], alive: Tensor, lesson: Lesson) -> Tensor | None:
    if "steps/value" not in data or lesson.critic is None:
        return None
    switches, found = lesson.recipe.switches, lesson.measures.advantage
    raw = advantages(data, lesson.spec, lesson.critic, switches)
    # CRR asks whether an action was better than the policy: less the mean, the sign is another.
    if found is not None and switches.policy_term != "crr":
        raw = found.normalised(raw)
    return raw.masked_fill(~alive, 0.0)


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
