"""Start a distillation from the students of a run instead of random weights.

PyTorch is imported only when weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_offline.errors import CheckpointError, MismatchError, UnknownNameError, UsageError
from kd_offline.runs.complete import complete_run
from kd_offline.runs.folder import recipe_of
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.student import StudentCard
from kd_offline.students.file import STUDENTS, read_students

if TYPE_CHECKING:
    from torch import Tensor

    from kd_offline.students.networks import StudentTeam

_SHARED_FIELDS = ("agents", "obs_widths", "action_counts")


def start_settings(run: str | Path) -> dict[str, Any]:
    """Return the settings of a recipe that goes on from a run, by dotted path.

    They are those of its students, its mask, method and seeds, what keeps its seeds different and
    its matrices sparse, and ``start``.

    Raises
    ------
    UsageError
        There is no complete run, or unit gates chose its networks.
    CheckpointError, StorageError
        The run or its students were altered.
    """
    began = complete_run(run)
    students, recipe = began.students, recipe_of(began.manifest)
    _require_one_design(students.card, run)
    digests = {str(seed): digest for seed, digest in students.digests().items()}
    optional: dict[str, Any] = {} if recipe.diverse is None else {"diverse": recipe.diverse}
    if recipe.sparsity is not None:
        optional["sparsity"] = recipe.sparsity.model_dump(mode="json")
    return {
        "method": recipe.method,
        "mask": recipe.mask,
        "weights": dict(recipe.weights),
        "terms": dict(recipe.terms),
        "objective": recipe.objective.model_dump(mode="json"),
        "student": recipe.student.model_dump(mode="json")
        | {
            "hidden": students.card.widths,
            "motion": students.card.motion,
            "last_action": students.card.last_action,
            "mask_as_input": students.card.mask_as_input,
        },
        "seeds": students.card.seeds,
        "start": {"run": str(run), "digests": digests},
        **optional,
    }


def starting_weights(recipe: DistillRecipe, spec: EnvironmentSpec) -> dict[int, dict[str, Tensor]]:
    """Return the weights that the team of each seed starts from, with the scale of its inputs.

    Empty where the recipe starts from nothing.

    Raises
    ------
    CheckpointError, StorageError
        They are missing, were altered, or are others than those that the recipe means.
    MismatchError, UnknownNameError
        The recipe or the environment of the dataset, ``spec``, does not fit them.
    """
    if recipe.start is None:
        return {}
    from kd_offline.students.policy import restore

    run = recipe.start.run
    students = read_students(Path(run))
    stated = {int(seed): digest for seed, digest in recipe.start.digests.items()}
    digests = students.digests()
    for seed in recipe.seeds:
        if seed not in stated:
            raise UnknownNameError(
                what=f"seed of the run {run!r}", got=str(seed), allowed=recipe.start.digests
            )
        if digests.get(seed) != stated[seed]:
            msg = (
                f"the students of seed {seed} in {str(Path(run) / STUDENTS)!r} are not those that "
                f"the recipe starts from ({stated[seed][:19]}): restore them, or name the run anew"
            )
            raise CheckpointError(msg)
    _require_one_design(students.card, run)
    for name in _SHARED_FIELDS:
        theirs, ours = getattr(students.card.environment, name), getattr(spec, name)
        if theirs != ours:
            msg = (
                f"the students in {run!r} were distilled for {students.card.environment.id} with "
                f"the {name} {theirs}, and the dataset of {spec.id} has {ours}: start "
                "from students of such a task, or from none"
            )
            raise MismatchError(msg)
    return {team.seed: team.team.state_dict() for team in restore(students)}


def load_into(team: StudentTeam, weights: Mapping[str, Tensor], run: str) -> None:
    """Load the weights of a run's students, with the scale of their inputs, into a new team.

    Raises
    ------
    MismatchError
        The new students are other networks.
    """
    own = {name: values.shape for name, values in team.state_dict().items()}
    if own != {name: values.shape for name, values in weights.items()}:
        msg = (
            f"the recipe's students are other networks than those in {run!r}: leave out the "
            "settings of student and of budget, or start from none"
        )
        raise MismatchError(msg)
    team.load_state_dict(dict(weights))


def _require_one_design(card: StudentCard, run: str | Path) -> None:
    layers = [own for team in card.layers or () for own in team]
    if any(own.sparse is None for own in layers):
        msg = (
            f"unit gates chose other networks for every seed of the run in {str(run)!r}: start "
            "from students whose widths a recipe or a budget decided"
        )
        raise UsageError(msg)
