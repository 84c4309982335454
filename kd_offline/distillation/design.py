"""The students of a distillation before their first step: widths, inputs, networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.format.resource_limits import check_memory
from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.block_importance import block_importance
from kd_offline.distillation.start import load_into, starting_weights
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.networks.arithmetic import FLOAT, ExportedShape
from kd_offline.networks.sparsity import sparse_matrices
from kd_offline.schemas.budget import Allocation
from kd_offline.schemas.layers import LayerWidths
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.student import StudentCard
from kd_offline.seeding import generator
from kd_offline.students import policy as students
from kd_offline.students.budgets import allocate, allocate_budget, allocation
from kd_offline.students.cost_bounds import Bounds, card_shape, trained_shape
from kd_offline.students.families import FAMILIES, settings_of
from kd_offline.students.networks import InputScale, StudentTeam
from kd_offline.types import BoolArray

_COPIES = 6  # of the weights in training: gradients, two moments, averages, the best so far


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
