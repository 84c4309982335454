"""The students of a distillation before their first step: widths, inputs, networks.

Widths are those of the recipe, or meet a budget: capacity follows what the observation blocks of an
agent are worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from torch import Tensor

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.format.resource_limits import check_memory
from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.block_importance import block_importance
from kd_offline.distillation.start import load_into, starting_weights
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.errors import UsageError
from kd_offline.networks.arithmetic import FLOAT, ExportedShape
from kd_offline.networks.sparsity import sparse_matrices
from kd_offline.schemas.budget import AgentBudget, Allocation, Budget, Worth
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.layers import LayerWidths, Widths, widest
from kd_offline.schemas.recipes import DistillRecipe, StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.seeding import generator
from kd_offline.students import policy as students
from kd_offline.students.cost_bounds import (
    NARROWEST,
    Bounds,
    Figures,
    added,
    card_shape,
    trained_shape,
)
from kd_offline.students.families import FAMILIES, settings_of
from kd_offline.students.networks import InputScale, StudentTeam
from kd_offline.types import BoolArray, IntArray

_COPIES = 6  # of the weights in training: gradients, two moments, averages, the best so far

USUAL_LEAST = 8
"""What an agent gets that is worth next to nothing, unless the whole team has to be narrower."""

Cost = Callable[[int, int], Figures]  # of an agent at a width


@dataclass(frozen=True, slots=True)
class StudentDesign:
    """The design that the teams of all seeds have in common.

    ``allocation``: how a budget narrowed them before training; None where it did not. ``start``:
    the weights that the team of a seed goes on from; empty where they are random.
    """

    recipe: DistillRecipe
    card: StudentCard
    scale: InputScale
    allocation: Allocation | None
    start: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)

    def team(self, seed: int) -> StudentTeam:
        """Return the team of a seed before its first step."""
        team = students.build(self.card, generator(seed, "student weights"))
        if self.recipe.start is None:
            team.scale_inputs(self.scale)
        else:
            load_into(team, self.start[seed], self.recipe.start.run)
        return team

    def narrowed_team(self, layers: Sequence[LayerWidths] | None) -> StudentTeam:
        """Return a team with the layers that gates chose, to load weights into."""
        return students.build(self.card, None, layers)

    def heads(self, seed: int, team: StudentTeam, terms: ActiveTerms) -> AuxiliaryHeads:
        """Return the auxiliary networks of a seed before its first step, of what a team embeds."""
        widths = tuple(shape.embedding for shape in team.shapes)
        rng = generator(seed, "projection weights")
        taps = [shape.taps for shape in team.shapes]
        heads = AuxiliaryHeads(terms.auxiliary_heads(widths, team.spec, rng, taps))
        if self.recipe.first_settled is not None:
            heads.require_narrowable(len(widths))
        return heads

    def allocations(self, layers: Sequence[Sequence[LayerWidths]]) -> list[Allocation]:
        """Return what the teams of the given layers cost, by the recipe's budget."""
        if self.recipe.budget is None:
            return []
        bounds = Bounds.of(self.card, self.recipe.budget)
        return [allocation(bounds, tuple(own)) for own in layers]


def design_students(
    buffer: ExpertBuffer, recipe: DistillRecipe, scale: InputScale
) -> StudentDesign:
    """Decide the students' widths and inputs from the dataset, its mask and the budget.

    Raises
    ------
    BudgetError
        No students are small enough.
    UsageError
        They are larger than this machine's memory, or cannot be as sparse as they should.
    CheckpointError, MismatchError, StorageError, UnknownNameError
        The students that the recipe starts from cannot be used.
    """
    mask = buffer.mask(recipe.mask)
    start = starting_weights(recipe, buffer.spec)
    card = _card(buffer, recipe, mask, scale)
    if recipe.sparsity is not None:
        for i, width in enumerate(card.widths):
            shape = card_shape(card, i, width)
            assert isinstance(shape, ExportedShape)  # noqa: S101 - other families decline
            sparse_matrices(shape.matrices, recipe.sparsity)  # refused before anything is made
    if recipe.budget is None or recipe.first_settled is not None:
        _check_room(card)
    if recipe.budget is None:
        return StudentDesign(recipe, card, scale, None, start)
    if recipe.first_settled is not None:  # gates narrow them later, if there is a team that fits
        Bounds.of(card, recipe.budget).require_possible()
        return StudentDesign(recipe, card, scale, None)
    seen: BoolArray = mask if mask.ndim == 2 else np.any(mask, axis=0)
    importance = block_importance(buffer, seen, motion=card.motion)
    found = allocate_budget(card, importance, recipe.budget)
    widths = tuple(agent.hidden for agent in found.agents)
    card = card.model_copy(update={"widths": widths})
    _check_room(card)
    return StudentDesign(recipe, card, scale, found, start)


def _check_room(card: StudentCard) -> None:
    """Refuse students that this machine has no memory to train, before they are made."""
    numbers = 0
    for i, width in enumerate(card.widths):
        shape = trained_shape(card, i, width)
        aligner = shape.inputs**2 if card.architecture.aligner == "linear" else 0
        numbers += shape.cost().parameters + aligner
    needed = _COPIES * FLOAT * numbers
    check_memory(needed, "the students of this recipe", "make student.hidden or depth smaller")


def _card(
    buffer: ExpertBuffer, recipe: DistillRecipe, mask: BoolArray, scale: InputScale
) -> StudentCard:
    fixed, varies = mask.ndim == 2, scale.std > 1e-6
    seen = mask if fixed else mask.any(0)
    asked = settings_of(recipe.student)
    hides = not fixed or bool((~seen & varies).any())
    motion = hides if asked.motion is None else asked.motion
    return StudentCard(
        environment=buffer.spec.local,
        architecture=asked,
        widths=allocate(asked, buffer.spec, seen & varies),
        mask=recipe.mask,
        mask_features=tuple(tuple(map(bool, row)) for row in mask) if fixed else None,
        random_k=buffer.manifest.masks[recipe.mask].random_k,
        mask_as_input=(not fixed) if asked.mask_as_input is None else asked.mask_as_input,
        motion=motion,
        last_action=motion if asked.last_action is None else asked.last_action,
        method=recipe.method,
        dataset=buffer.id,
        seeds=recipe.seeds,
        parts=FAMILIES.records([asked.family]),
    )


def allocate_budget(card: StudentCard, worths: Sequence[Worth], budget: Budget) -> Allocation:
    """Return widths that meet a budget, as a model of the device predicts.

    The weights of a network grow with the square of its width, so an agent's width is that of the
    agent that is worth most, times the square root of its own share of that worth. Where every
    agent has its own device, each is then narrowed until it fits; on a shared device all are.

    Parameters
    ----------
    card : StudentCard
        Its widths are the widest that are allowed.
    worths : sequence of Worth
        Of each agent.
    budget : Budget

    Raises
    ------
    BudgetError
        Not even the narrowest students fit; the message names the nearest budget that would do.
    UsageError
        A limit is stated that the profile cannot predict.
    """
    bounds = Bounds.of(card, budget)
    bounds.require_possible()
    shares = _shares([worth.total for worth in worths])
    find = _on_one_device if budget.shared_device else _on_own_devices
    return allocation(bounds, find(bounds, cache(bounds.cost), shares), worths)


def allocation(
    bounds: Bounds, widths: Sequence[Widths], worths: Sequence[Worth] | None = None
) -> Allocation:
    """Return the predicted costs of a team of these widths, and their limits."""
    each = [bounds.cost(i, one) for i, one in enumerate(widths)]
    names, allowed = bounds.card.environment.agents, bounds.card.widths
    return Allocation(
        budget=bounds.budget,
        limits=dict(bounds.limits),
        agents=tuple(
            AgentBudget(
                agent=name,
                hidden=widest(widths[i]),
                layers=one if isinstance(one := widths[i], LayerWidths) else None,
                widest=allowed[i],
                worth=None if worths is None else worths[i],
                figures=each[i],
            )
            for i, name in enumerate(names)
        ),
        team={name: one.value for name, one in added(each).items()},
    )


def _on_own_devices(bounds: Bounds, cost: Cost, shares: Sequence[float]) -> list[int]:
    """Narrow each agent by itself, from the width that its worth gives it."""
    wanted = next(_candidates(bounds.card.widths, shares))
    return [
        next(w for w in range(width, 0, -1) if not bounds.exceeded(cost(i, w)))
        for i, width in enumerate(wanted)
    ]


def _on_one_device(bounds: Bounds, cost: Cost, shares: Sequence[float]) -> list[int]:
    """Narrow the whole team until its costs add up to no more than the limits."""
    return next(
        widths
        for widths in _candidates(bounds.card.widths, shares)
        if not bounds.exceeded(added([cost(i, width) for i, width in enumerate(widths)]))
    )


def _shares(totals: Sequence[float]) -> list[float]:
    """Return worths as shares of the largest; all are equal where nothing is worth anything."""
    most = max(totals)
    return [total / most if most > 0 else 1.0 for total in totals]


def _candidates(widest: Sequence[int], shares: Sequence[float]) -> Iterator[list[int]]:
    """Yield widths of the team from the widest to the narrowest."""
    last: list[int] = []
    for scale in range(max(widest), NARROWEST - 1, -1):
        least = USUAL_LEAST if scale >= USUAL_LEAST else NARROWEST
        wanted = [max(int(scale * math.sqrt(share)), least) for share in shares]
        widths = [min(limit, want) for limit, want in zip(widest, wanted, strict=True)]
        if widths != last:
            yield widths
        last = widths
    if max(widest) < NARROWEST:
        yield list(widest)


NARROW, WIDE, GRAIN = 16, 32, 8


def allocate(
    architecture: StudentArchitecture, spec: EnvironmentSpec, visible: BoolArray
) -> tuple[int, ...]:
    """Return one hidden width per agent.

    Parameters
    ----------
    architecture
        ``hidden`` is one width, one for each agent, or ``auto``: between 16 for the agent that sees
        least and 32 for the one that sees most, in steps of 8, by the number of features seen
        (KD-MARL section III-A: capacity follows observation complexity). Agents that all see
        equally much get 32.
    visible : bool [N, O]
        Features that an agent sees and that are not constant in the dataset.

    Raises
    ------
    UsageError
        The number of widths is not the number of agents, or a width is below 1.
    """
    hidden = architecture.hidden
    if hidden == "auto":
        return _auto(visible.sum(axis=1))
    widths = (hidden,) * spec.n_agents if isinstance(hidden, int) else tuple(hidden)
    if len(widths) != spec.n_agents or min(widths) < 1:
        given = ",".join(map(str, widths))
        msg = (
            f"hidden widths {given} do not fit the {spec.n_agents} agents of {spec.id} "
            f"({', '.join(spec.agents)}): give one positive width, one for each agent, or auto"
        )
        raise UsageError(msg)
    return widths


def _auto(seen: IntArray) -> tuple[int, ...]:
    low, high = int(seen.min()), int(seen.max())
    if low == high:
        return (WIDE,) * len(seen)
    share = (seen - low) / (high - low)
    return tuple(int(NARROW + GRAIN * round(s * (WIDE - NARROW) / GRAIN)) for s in share)
