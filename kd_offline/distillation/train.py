"""The one training loop of distillation: one seed, one team, one file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.episode_targets import EpisodeTargets, ValidationEpisodes
from kd_offline.distillation.muon import Muon
from kd_offline.distillation.objective import objective, student_batch
from kd_offline.distillation.parallel_agents import ParallelAgents, parallel_agents
from kd_offline.distillation.phases.base import Phase
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.distillation.validation_metrics import validate
from kd_offline.schemas.layers import LayerWidths
from kd_offline.schemas.recipes import Optimisation
from kd_offline.seeding import generator
from kd_offline.students.networks import StudentTeam
from kd_offline.students.structured_pruning import layers_of

Row = dict[str, Any]


@dataclass(slots=True)
class Training:
    """All that changes while one team is trained; it can be saved after any epoch."""

    team: StudentTeam
    heads: AuxiliaryHeads
    schedule: Optimisation
    phases: Sequence[Phase]
    optimisers: list[torch.optim.Optimizer]
    average: list[Tensor]
    active: list[Phase] = field(default_factory=list)
    since: int = 0  # the epoch from which on this very team is trained
    epoch: int = 0
    best_epoch: int | None = None
    best: dict[str, float] = field(default_factory=dict)
    best_weights: list[Tensor] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        team: StudentTeam,
        heads: AuxiliaryHeads,
        schedule: Optimisation,
        phases: Sequence[Phase] = (),
    ) -> Training:
        """Return the state before the first step."""
        optimisers = _optimisers(team, heads, schedule)
        return cls(team, heads, schedule, phases, optimisers, _copied(team))

    def go_on_with(self, team: StudentTeam, heads: AuxiliaryHeads, epoch: int) -> None:
        """Continue with another team from ``epoch`` on."""
        self.team, self.heads, self.since = team, heads, epoch
        self.optimisers, self.average = _optimisers(team, heads, self.schedule), _copied(team)
        self.forget_best()

    def forget_best(self) -> None:
        """Forget the best epoch: it was one of another network."""
        self.best, self.best_epoch, self.best_weights = {}, None, []

    def enter_epoch(self) -> None:
        """Leave the phases that end before the epoch that comes, and begin those of it."""
        for phase in [phase for phase in self.active if phase.end == self.epoch]:
            phase.leave(self)
            self.active.remove(phase)
        for phase in self.phases:
            if phase.first == self.epoch:
                phase.begin(self)
                self.active.append(phase)

    @property
    def layers(self) -> tuple[LayerWidths, ...] | None:
        """The widths of each agent's layers, where a phase changed them."""
        return tuple(map(layers_of, self.team.shapes)) if self.since else None

    @property
    def parameters(self) -> list[Tensor]:
        """Everything that is trained."""
        return [p for o in self.optimisers for group in o.param_groups for p in group["params"]]

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors; :meth:`restore` takes them back."""
        out = {f"team.{k}": v for k, v in self.team.state_dict().items()}
        out |= {f"heads.{k}": v for k, v in self.heads.state_dict().items()}
        for phase in self.active:
            out |= {f"{phase.saved_as}.{k}": v for k, v in phase.tensors().items()}
        out |= {f"average.{i}": v for i, v in enumerate(self.average)}
        out |= {f"best.{i}": v for i, v in enumerate(self.best_weights)}
        for k, optimiser in enumerate(self.optimisers):
            for index, entry in optimiser.state_dict()["state"].items():
                moments = {f"optimiser{k}.{index}.{n}": v for n, v in entry.items()}
                out |= {name: torch.as_tensor(value) for name, value in moments.items()}
        return out

    def restore(
        self,
        epoch: int,
        tensors: dict[str, Tensor],
        layers: Sequence[LayerWidths] | None = None,
    ) -> None:
        """Put back what was saved of a state like this one, after ``epoch`` epochs.

        ``layers`` are those of the saved state.

        Raises
        ------
        KeyError, RuntimeError
            The tensors are of another training.
        """
        for phase in self.phases:
            if phase.end < epoch:
                phase.skip(self, layers)
            elif phase.first < epoch:
                phase.begin(self)
                self.active.append(phase)
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = value
        self.team.load_state_dict(groups["team"])
        self.heads.load_state_dict(groups.get("heads", {}))
        for phase in self.active:
            phase.restore(groups.get(phase.saved_as, {}))
        self.average = _listed(groups["average"])
        self.best_weights = _listed(groups.get("best", {}))
        for k, optimiser in enumerate(self.optimisers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in groups.get(f"optimiser{k}", {}).items():
                index, _, key = name.partition(".")
                state.setdefault(int(index), {})[key] = value
            optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
        self.epoch = epoch


def _optimisers(
    team: StudentTeam, heads: AuxiliaryHeads, schedule: Optimisation
) -> list[torch.optim.Optimizer]:
    """Return AdamW, and Muon (Jordan et al., 2024) for the matrices between hidden layers.

    Muon makes every update of a matrix orthogonal. Small recurrent students get as far in one
    epoch as in two of AdamW, see docs/decisions/004-distillation.md.
    """
    hidden = {
        id(p)
        for name, p in team.named_parameters()
        if schedule.optimiser == "muon" and p.ndim == 2 and not name.startswith("aligners")
        if ".head." not in name
    }
    everything = [p for m in (team, heads) for p in m.parameters() if p.requires_grad]
    rest = [p for p in everything if id(p) not in hidden]
    decay = schedule.weight_decay
    adamw = torch.optim.AdamW(rest, schedule.learning_rate, weight_decay=decay, fused=True)
    if not hidden:
        return [adamw]
    matrices = [p for p in everything if id(p) in hidden]
    return [adamw, Muon(matrices, schedule.muon_learning_rate, weight_decay=decay)]


def _copied(team: StudentTeam) -> list[Tensor]:
    return [p.detach().clone() for p in team.parameters()]


def _listed(tensors: dict[str, Tensor]) -> list[Tensor]:
    return [tensors[str(i)].clone() for i in range(len(tensors))]


def train_team(
    state: Training,
    train: EpisodeTargets,
    validation: ValidationEpisodes | None,
    terms: ActiveTerms,
    seed: int,
) -> Iterator[list[Row]]:
    """Train to the end of the recipe, yielding metric rows after every epoch.

    The averaged weights are what is evaluated and kept. The best epoch is the one with the least
    held-out KL (cross entropy where the data hold no logits), and the last one where nothing is
    held out. The consumer may save ``state`` between epochs, and continue from it later, to the
    same bits.

    Parameters
    ----------
    state : Training
    train : EpisodeTargets
    validation : ValidationEpisodes, optional
        None where the dataset holds none out.
    terms : ActiveTerms
        And with them the recipe.
    seed : int
    """
    recipe, schedule = terms.recipe, terms.recipe.optimisation
    with parallel_agents(state.team, recipe.threads) as passes:
        while state.epoch < schedule.epochs:
            state.enter_epoch()
            passes.team = state.team
            mean = _epoch(state, passes, train, terms, seed)
            state.epoch += 1
            rows: list[Row] = [{"seed": seed, "epoch": state.epoch, "split": "train", **mean}]
            due = state.epoch % schedule.evaluate_every == 0 or state.epoch == schedule.epochs
            if validation is not None and due:
                rows.append(_evaluate(state, validation, terms, seed))
            yield rows


def _epoch(
    state: Training, passes: ParallelAgents, train: EpisodeTargets, terms: ActiveTerms, seed: int
) -> dict[str, float]:
    """Take one step for every batch of an epoch; returns the means of all losses."""
    schedule, spec = state.schedule, state.team.spec
    size = min(schedule.batch_episodes, len(train))
    per_epoch = len(train) // size
    total = per_epoch * schedule.epochs
    draws = [(phase, generator(seed, phase.name, state.epoch)) for phase in state.active]
    sums: dict[str, Tensor] = {}
    state.team.train()
    for index, batch in enumerate(train.epoch(size, seed, state.epoch)):
        step = state.epoch * per_epoch + index
        _zero(state)
        for phase, rng in draws:
            phase.draw(rng)
        outputs = passes.forward(batch)
        students = student_batch(*outputs, batch.targets, spec)
        losses = objective(students, batch.targets, state.heads, terms, step / max(1, total))
        for phase in state.active:
            done = (step - per_epoch * phase.first) / (per_epoch * (phase.end - phase.first))
            losses |= phase.losses(losses["loss"], done)
        passes.backward(losses["loss"])
        norm = _step(state, schedule, warm_cosine(schedule, step, total))
        _average(state, schedule.ema, step - per_epoch * state.since)
        for name, value in (losses | {"gradient_norm": norm}).items():
            sums[name] = sums.get(name, torch.zeros(())) + value.detach()
    return {name: float(value) / per_epoch for name, value in sums.items()}


def _zero(state: Training) -> None:
    for optimiser in state.optimisers:
        optimiser.zero_grad()


def _step(state: Training, schedule: Optimisation, share: float) -> Tensor:
    """Take one gradient step at ``share`` of the learning rates; returns the gradient's norm."""
    for optimiser in state.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = optimiser.defaults["lr"] * share
    norm = nn.utils.clip_grad_norm_(state.parameters, schedule.max_grad_norm)
    for optimiser in state.optimisers:
        optimiser.step()
    return norm


def warm_cosine(schedule: Optimisation, step: int, total: int) -> float:
    """Return the share of the learning rates at ``step``: linear warm-up, then a cosine."""
    warm = max(1, round(schedule.warmup * total))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    low = schedule.final_share
    return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2


def _average(state: Training, decay: float, step: int) -> None:
    """Move the averaged weights; early on the average is short, so that it forgets the start."""
    keep = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(state.average, list(state.team.parameters()), 1 - keep)


def _evaluate(
    state: Training, validation: ValidationEpisodes, terms: ActiveTerms, seed: int
) -> Row:
    """Measure the averaged weights on held-out episodes and keep them where they are the best."""
    raw, batch = _copied(state.team), terms.recipe.optimisation.batch_episodes
    _assign(state.team, state.average)
    found = validate(state.team, validation.episodes, batch, terms)
    _assign(state.team, raw)
    figures, criterion = found.figures, found.criterion
    if criterion is not None and figures[criterion] < state.best.get(criterion, math.inf):
        state.best, state.best_epoch = figures, state.epoch
        state.best_weights = [p.clone() for p in state.average]
    return {"seed": seed, "epoch": state.epoch, "split": validation.part, **figures}


def _assign(team: StudentTeam, weights: list[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(team.parameters()), weights)


def finish(state: Training) -> StudentTeam:
    """Return the team with the best weights, or the last ones where nothing judged them."""
    _assign(state.team, state.best_weights or state.average)
    for phase in state.active:
        phase.leave(state)
    return state.team.eval()
