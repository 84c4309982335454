"""KD-MARL's objective (Algorithm 1, lines 8 to 14) on one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_offline.advantage import side_sum
from kd_offline.distillation import losses, values
from kd_offline.distillation.projections import Projections
from kd_offline.distillation.targets import Targets
from kd_offline.schemas.recipes import DistillRecipe, LossSwitches


def objective(
    logits: Tensor,
    embeddings: list[Tensor],
    batch: Targets,
    projections: Projections,
    recipe: DistillRecipe,
    progress: float,
) -> dict[str, Tensor]:
    """Return every active term, and their weighted sum as ``loss``.

    Parameters
    ----------
    logits : float [S, N, A]
    embeddings : list of float [S, H_i]
    progress : float
        Share of the training that is done, 0 to 1; the policy term sets in after its warm-up.
    """
    weights, switches = recipe.weights, recipe.switches
    student = losses.log_policy(logits, batch.available)
    terms: dict[str, Tensor] = {}
    if batch.softened is not None:
        terms["kl"] = _kl(logits, student, batch, switches)
    if weights.ce:
        terms["ce"] = _cross_entropy(student, batch)
    if weights.regression:
        terms["regression"] = _regression(logits, batch, switches)
    if batch.baseline is not None:
        gap = projections.values(embeddings) - batch.baseline
        error = values.error(gap, switches.regression_loss)
        terms["value"] = losses.masked_mean(error, batch.weight)
    if batch.advantage is not None:
        terms["policy"] = _policy(logits, student, batch, switches, projections.side_of)
    if weights.entropy:
        bonus = losses.entropy(student, batch.available)
        terms["entropy"] = losses.masked_mean(bonus, batch.weight)
    if batch.relations is not None:
        terms["structure"] = _structure(embeddings, batch, projections, switches)
    if batch.roles is not None:
        own = projections.log_roles(embeddings, switches.role_temperature)
        terms["role"] = losses.masked_mean(losses.role_divergence(batch.roles, own), batch.both)
    return terms | {"loss": _total(terms, recipe, progress, agents=logits.shape[-2])}


def _kl(logits: Tensor, student: Tensor, batch: Targets, switches: LossSwitches) -> Tensor:
    tau = switches.temperature
    soft = student if tau == 1.0 else losses.log_policy(logits, batch.available, tau)
    assert batch.softened is not None  # noqa: S101 - the caller checked
    value = losses.masked_mean(
        losses.kl_divergence(batch.softened, soft, batch.available), batch.weight
    )
    return value * tau**2 if switches.scale_by_temperature else value


def _cross_entropy(student: Tensor, batch: Targets) -> Tensor:
    if batch.label is not None:
        weight = batch.weight if batch.cloned is None else batch.cloned
        return losses.masked_mean(losses.cross_entropy(batch.label, student), weight)
    assert batch.expert is not None  # noqa: S101 - soft labels are read with the logits
    soft = losses.soft_cross_entropy(batch.expert, student, batch.available)
    return losses.masked_mean(soft, batch.weight)


def _regression(logits: Tensor, batch: Targets, switches: LossSwitches) -> Tensor:
    """Compare in the unit of the scaled Q-values, so that the temperature weighs nothing."""
    assert batch.expert is not None  # noqa: S101 - the Q-values are read with the weight
    tau = switches.q_temperature
    gap = values.regression(
        logits * tau, batch.expert * tau, batch.available, switches.regression_loss
    )
    return losses.masked_mean(gap, batch.weight)


def _policy(
    logits: Tensor,
    student: Tensor,
    batch: Targets,
    switches: LossSwitches,
    side_of: tuple[int, ...],
) -> Tensor:
    assert batch.executed is not None  # noqa: S101 - read with the advantages
    assert batch.advantage is not None  # noqa: S101
    if switches.policy_temperature == "kl":
        student = losses.log_policy(logits, batch.available, switches.temperature)
    taken = student.gather(-1, batch.executed.unsqueeze(-1)).squeeze(-1)
    if switches.policy_term == "awr":
        gain = losses.advantage_weighted(taken, batch.advantage, switches.awr_temperature)
    elif switches.policy_term == "crr":
        gain = losses.positive_only(taken, batch.advantage)
    else:
        assert batch.behaviour is not None  # noqa: S101 - PPO reads it
        behaviour = batch.behaviour
        if switches.ratio == "joint":
            taken, behaviour = (side_sum(x * batch.weight, side_of) for x in (taken, behaviour))
        gain = losses.ppo_clip(taken, behaviour, batch.advantage, switches.clip)
    return losses.masked_mean(gain, batch.weight)


def _structure(
    embeddings: list[Tensor], batch: Targets, projections: Projections, switches: LossSwitches
) -> Tensor:
    assert batch.relations is not None  # noqa: S101 - the caller checked
    side_of = projections.side_of
    own = losses.cosine_relations(projections.common(embeddings), side_of)
    alive = losses.stack_pairs(batch.both.unbind(-1), torch.mul, side_of)
    mean = losses.masked_mean(losses.structure(batch.relations, own), alive)
    return mean * own.shape[-1] if switches.pairs == "sum" else mean


def _total(terms: dict[str, Tensor], recipe: DistillRecipe, progress: float, agents: int) -> Tensor:
    w, switches = recipe.weights, recipe.switches
    on = float(progress >= switches.policy_warmup)
    scale = {"kl": w.kl, "ce": w.ce, "policy": -w.policy * on, "entropy": -w.entropy}
    scale |= {"structure": w.structure, "role": w.role}
    scale |= {"regression": w.regression, "value": w.regression}
    if switches.form == "eq6":  # alpha CE + CE + one lambda for structure and role
        scale |= {"kl": 0.0, "ce": w.kl + 1.0, "role": w.structure}
    summed = agents if switches.agents == "sum" else 1
    total = torch.stack([scale[name] * value for name, value in terms.items()]).sum()
    return total * summed
