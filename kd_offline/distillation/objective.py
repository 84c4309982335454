"""The objective: weighted loss terms, added up (KD-MARL, Algorithm 1, line 14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from kd_offline import distributions
from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.losses import masked_mean
from kd_offline.distillation.methods import FORMS
from kd_offline.distillation.stacked_teams import StackedHeads, stacked_losses
from kd_offline.distillation.targets import Targets
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.distillation.terms.base import Elements, StudentBatch
from kd_offline.errors import UsageError
from kd_offline.schemas.environment import EnvironmentSpec


def student_batch(
    logits: Tensor,
    embeddings: Sequence[Tensor],
    batch: Targets,
    spec: EnvironmentSpec,
    taps: Mapping[str, Sequence[Tensor]] = MappingProxyType({}),
) -> StudentBatch:
    """Return the batch of student outputs that the loss terms read.

    Parameters
    ----------
    logits : float [S, N, A]
    embeddings : sequence of float [S, H_i]
    batch : Targets
        Of the same steps.
    spec : EnvironmentSpec
        Says what an action is, and the side of each agent.
    taps : mapping of sequences of float [S, W_i]
        Inner layers by name, where the students' family has them.
    """
    actions, expert = distributions.learned(spec), batch.expert_policy
    policy = actions(logits, batch.available)
    policy.kept()  # before any term, as the order of the graph decides that of sums of gradients
    return StudentBatch(
        policy=policy,
        embeddings=embeddings,
        taps=taps,
        weight=batch.weight,
        alive=batch.alive,
        expert_policy=None if expert is None else actions.restored(expert, batch.available),
        side_of=spec.side_of,
    )


def objective(
    students: StudentBatch,
    batch: Targets,
    heads: AuxiliaryHeads | StackedHeads,
    terms: ActiveTerms,
    progress: float,
) -> dict[str, Tensor]:
    """Return every loss that takes part, and their weighted sum as ``loss``; of seeds each's, [K].

    Parameters
    ----------
    progress : float
        Share of the training that is done, 0 to 1; a term sets in after its warm-up.
    """
    settings = terms.recipe.objective
    weights = FORMS[settings.form](terms.recipe.weights)
    values: dict[str, Tensor] = {}
    scales: list[float] = []
    if isinstance(heads, StackedHeads):
        found = stacked_losses(terms, students, batch.terms, heads)
    else:
        found = terms.losses(students, batch.terms, heads.by_term())
    for name, parts in found:
        term = terms.terms[name]
        scale = weights[name] * float(progress >= term.settings.warmup)
        for part, elements in parts.items():
            values[part] = _reduced(elements, seeds=isinstance(heads, StackedHeads))
            scales.append(-scale if term.maximised else scale)
    if not values:
        msg = "no loss term finds anything to learn in this dataset: choose another method"
        raise UsageError(msg)
    weighted = [scale * value for scale, value in zip(scales, values.values(), strict=True)]
    total = torch.stack(weighted).sum(0)
    return values | {"loss": total * (len(students.side_of) if settings.agents == "sum" else 1)}


def _reduced(elements: Elements, *, seeds: bool) -> Tensor:
    """Return the weighted mean, [] or of every seed [K]."""
    values, weight = elements.values, elements.weight
    if seeds:
        axes = tuple(range(1, values.ndim))
        mean = (values * weight).sum(axes) / weight.sum(axes).clamp(min=1e-8)
    else:
        mean = masked_mean(values, weight)
    return mean if elements.scale == 1.0 else mean * elements.scale
