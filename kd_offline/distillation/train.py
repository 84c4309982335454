"""The one training loop of distillation: one seed, one team, one file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.episode_targets import EpisodeTargets, ValidationEpisodes
from kd_offline.distillation.muon import Muon
from kd_offline.distillation.objective import objective, student_batch
from kd_offline.distillation.parallel_agents import parallel_agents
from kd_offline.distillation.phases.base import Phase
from kd_offline.distillation.stacked_teams import (
    StackedHeads,
    StackedPass,
    StackedTeams,
    clip_each,
    of_seed,
)
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.distillation.validation_metrics import validate
from kd_offline.schemas.layers import LayerWidths
from kd_offline.schemas.recipes import Optimisation
from kd_offline.seeding import generator
from kd_offline.students.networks import StudentTeam
from kd_offline.students.structured_pruning import layers_of

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Best:
    """The best epoch of a seed so far and its held-out metrics; None and empty at first."""

    epoch: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Training:
    """All that changes while a team is trained, or those of several seeds at once.

    It can be saved after any epoch.
    """

    team: StudentTeam | StackedTeams
    heads: AuxiliaryHeads | StackedHeads
    schedule: Optimisation
    phases: Sequence[Phase]
    optimisers: list[torch.optim.Optimizer]
    average: list[Tensor]
    active: list[Phase] = field(default_factory=list)
    since: int = 0  # the epoch from which on this very team is trained
    reshaped: bool = False  # whether a phase changed widths, or which weights are stored
    epoch: int = 0
    best: list[Best] = field(default_factory=list)  # of every seed
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
        state = cls(team, heads, schedule, phases, optimisers, _copied(team))
        state.forget_best()
        return state

    @classmethod
    def begin_together(
        cls,
        teams: Sequence[StudentTeam],
        heads: Sequence[AuxiliaryHeads],
        terms: ActiveTerms,
    ) -> Training:
        """Return the state of several seeds' teams of one design before their first step."""
        team, stacked = StackedTeams(teams), StackedHeads(heads, terms)
        schedule = terms.recipe.optimisation
        optimisers = _optimisers(team, stacked, schedule)
        state = cls(team, stacked, schedule, (), optimisers, _copied(team))
        state.forget_best()
        return state

    @property
    def teams(self) -> tuple[StudentTeam, ...]:
        """The team of every seed."""
        return self.team.teams if isinstance(self.team, StackedTeams) else (self.team,)

    def go_on_with(self, team: StudentTeam, heads: AuxiliaryHeads, epoch: int) -> None:
        """Continue with another team from ``epoch`` on."""
        team, heads = team.to(self.device), heads.to(self.device)
        self.team, self.heads, self.since, self.reshaped = team, heads, epoch, True
        self.optimisers, self.average = _optimisers(team, heads, self.schedule), _copied(team)
        self.forget_best()

    def forget_best(self) -> None:
        """Forget the best epoch: it was one of another network."""
        self.best, self.best_weights = [Best() for _ in self.teams], []

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
    def device(self) -> torch.device:
        """Device on which the team is trained."""
        return self.average[0].device

    @property
    def layers(self) -> tuple[LayerWidths, ...] | None:
        """The widths of each agent's layers, if a phase changed them or the stored weights."""
        return tuple(map(layers_of, self.teams[0].shapes)) if self.reshaped else None

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
        return {name: values.cpu() for name, values in out.items()}

    def restore(
        self,
        epoch: int,
        tensors: dict[str, Tensor],
        layers: Sequence[LayerWidths] | None = None,
    ) -> None:
        """Restore the saved state of such a training after ``epoch`` epochs.

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
        self.average = _listed(groups["average"], self.device)
        self.best_weights = _listed(groups.get("best", {}), self.device)
        for k, optimiser in enumerate(self.optimisers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in groups.get(f"optimiser{k}", {}).items():
                index, _, key = name.partition(".")
                state.setdefault(int(index), {})[key] = value
            optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
        self.epoch = epoch


def _optimisers(
    team: StudentTeam | StackedTeams, heads: AuxiliaryHeads | StackedHeads, schedule: Optimisation
) -> list[torch.optim.Optimizer]:
    """Return AdamW, and Muon (Jordan et al., 2024) for the matrices between hidden layers.

    Muon makes every update of a matrix orthogonal. Small recurrent students get as far in one
    epoch as in two of AdamW, see docs/decisions/004-distillation.md.
    """
    hidden = {id(p) for p in _matrices(team)} if schedule.optimiser == "muon" else set()
    everything = [p for m in (team, heads) for p in m.parameters() if p.requires_grad]
    rest = [p for p in everything if id(p) not in hidden]
    decay = schedule.weight_decay
    adamw = torch.optim.AdamW(rest, schedule.learning_rate, weight_decay=decay, fused=True)
    if not hidden:
        return [adamw]
    matrices = [p for p in everything if id(p) in hidden]
    return [adamw, Muon(matrices, schedule.muon_learning_rate, weight_decay=decay)]


def _matrices(team: StudentTeam | StackedTeams) -> list[Tensor]:
    """Return the matrices between hidden layers; of several seeds stacks of them."""
    axes = 3 if isinstance(team, StackedTeams) else 2
    return [
        p
        for name, p in team.named_parameters()
        if p.ndim == axes and not any(part in f".{name}" for part in (".aligners.", ".head."))
    ]


def _copied(team: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in team.parameters()]


def _listed(tensors: dict[str, Tensor], device: torch.device) -> list[Tensor]:
    return [tensors[str(i)].clone().to(device) for i in range(len(tensors))]


def train_team(
    state: Training,
    train: EpisodeTargets,
    validation: ValidationEpisodes | None,
    terms: ActiveTerms,
    *seeds: int,
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
    seeds : int
        Of the team, or of each that is trained at once.
    """
    recipe, schedule = terms.recipe, terms.recipe.optimisation
    with _passes(state.team, recipe.threads) as passes:
        while state.epoch < schedule.epochs:
            state.enter_epoch()
            passes.team = state.team
            means = _epoch(state, passes, train, terms, seeds)
            state.epoch += 1
            train_row = {"epoch": state.epoch, "split": "train"}
            rows = [
                {"seed": seed, **train_row, **{name: value[k] for name, value in means.items()}}
                for k, seed in enumerate(seeds)
            ]
            due = state.epoch % schedule.evaluate_every == 0 or state.epoch == schedule.epochs
            if validation is not None and due:
                rows += _evaluate(state, validation, terms, seeds)
            yield rows


@contextmanager
def _passes(team: StudentTeam | StackedTeams, threads: int) -> Iterator[Any]:
    """Give what computes a team, or several at once."""
    if isinstance(team, StackedTeams):
        yield StackedPass(team)
        return
    with parallel_agents(team, threads) as passes:
        yield passes


def _epoch(
    state: Training, passes: Any, train: EpisodeTargets, terms: ActiveTerms, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Take one step for every batch of an epoch; returns the means of all losses, of each seed."""
    schedule, spec = state.schedule, state.team.spec
    size = min(schedule.batch_episodes, len(train))
    per_epoch = len(train) // size
    total = per_epoch * schedule.epochs
    draws = [(phase, generator(seeds[0], phase.name, state.epoch)) for phase in state.active]
    sums: dict[str, Tensor] = {}
    state.team.train()
    for index, batch in enumerate(passes.batches(train, size, seeds, state.epoch)):
        step = state.epoch * per_epoch + index
        _zero(state)
        for phase, rng in draws:
            phase.draw(rng)
        found = passes.forward(batch)
        students = student_batch(found.logits, found.embeddings, batch.targets, spec, found.taps)
        losses = objective(students, batch.targets, state.heads, terms, step / max(1, total))
        for phase in state.active:
            losses |= phase.losses(losses["loss"], phase.progress(step, per_epoch))
        passes.backward(losses["loss"])
        for parameter in terms.frozen(state.heads.each_by_term(), step):
            parameter.grad = None  # optimisers leave it alone, moments and decay included
        for phase in state.active:
            phase.before_step(state, step, phase.progress(step, per_epoch))
        norm = _step(state, schedule, warm_cosine(schedule, step, total))
        for phase in state.active:
            phase.after_step()
        _average(state, schedule.ema, step - per_epoch * state.since)
        for name, value in (losses | {"gradient_norm": norm}).items():
            sums[name] = sums.get(name, torch.zeros(())) + value.detach()
    return {
        name: [float(one) / per_epoch for one in value.expand(len(seeds))]
        for name, value in sums.items()
    }


def _zero(state: Training) -> None:
    for optimiser in state.optimisers:
        optimiser.zero_grad()


def _step(state: Training, schedule: Optimisation, share: float) -> Tensor:
    """Take one gradient step at ``share`` of the learning rates; returns the gradient's norm."""
    for optimiser in state.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = optimiser.defaults["lr"] * share
    if isinstance(state.team, StackedTeams) and isinstance(state.heads, StackedHeads):
        norm = clip_each(state.team, state.heads, schedule.max_grad_norm)
    else:
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
    state: Training, validation: ValidationEpisodes, terms: ActiveTerms, seeds: Sequence[int]
) -> list[Row]:
    """Measure the averaged weights on held-out episodes and keep them where they are the best."""
    raw, batch = _copied(state.team), terms.recipe.optimisation.batch_episodes
    _assign(state.team, state.average)
    found = [validate(team, validation.episodes, batch, terms) for team in state.teams]
    _assign(state.team, raw)
    for k, (figures, criterion) in enumerate((one.figures, one.criterion) for one in found):
        least = state.best[k].figures
        if criterion is not None and figures[criterion] < least.get(criterion, math.inf):
            state.best[k] = Best(state.epoch, figures)
            _keep(state, k)
    row = {"epoch": state.epoch, "split": validation.part}
    return [{"seed": s, **row, **one.figures} for s, one in zip(seeds, found, strict=True)]


def _keep(state: Training, k: int) -> None:
    """Keep the averaged weights of the seed of number ``k``."""
    if len(state.teams) == 1 or not state.best_weights:
        state.best_weights = [p.clone() for p in state.average]
        return
    seeds = len(state.teams)
    for kept, average in zip(state.best_weights, state.average, strict=True):
        of_seed(kept, k, seeds).copy_(of_seed(average, k, seeds))


def _assign(team: nn.Module, weights: list[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(team.parameters()), weights)


def finish(state: Training) -> tuple[StudentTeam, ...]:
    """Return every seed's team with its best weights, or with the last if nothing was held out."""
    _assign(state.team, state.best_weights or state.average)
    for phase in state.active:
        phase.leave(state)
    if isinstance(state.team, StackedTeams):
        state.team.part()
    return tuple(team.cpu().eval() for team in state.teams)
