"""Start the training of a policy from distilled students of a run.

Recipes request it by :class:`~kd_offline.schemas.expert.Start`. PyTorch is imported only when
weights are loaded.
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_offline.errors import CheckpointError, MismatchError, UsageError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import TrainRecipe
from kd_offline.schemas.layers import LayerWidths, widest
from kd_offline.schemas.student import StudentCard
from kd_offline.students.cost_bounds import trained_shape
from kd_offline.students.families import require_offer
from kd_offline.students.file import STUDENTS, read_students

if TYPE_CHECKING:
    from kd_offline.experts.team import ActorCritic
    from kd_offline.students.policy import StudentPolicy


def settings_of(card: StudentCard, seed: int) -> dict[str, Any]:
    """Return the environment, mask and networks that students determine, by dotted path.

    Raises
    ------
    UsageError
        They are networks that an expert cannot have.
    """
    if card.mask_features is None:
        msg = (
            f"the students' mask {card.mask!r} is drawn anew in every episode: train students "
            "further that were distilled under a fixed one"
        )
        raise UsageError(msg)
    require_offer(card.architecture, "expert")
    widths = card.widths_of(seed)
    if any(isinstance(own, LayerWidths) and own.sparse is not None for own in widths):
        msg = (
            "the students have sparse matrices, and training by reinforcement learning would fill "
            "their zeros: train students further that were distilled without sparsity"
        )
        raise UsageError(msg)
    broadest = max(map(widest, widths))
    shape = trained_shape(card, 0, broadest)
    return {
        "environment": card.environment.id,
        "mask": card.mask,
        "architecture.trunk": shape.trunk,
        "architecture.gru": shape.gru,
        "architecture.share": False,
        "architecture.widths": widths,
        "architecture.motion": card.motion,
        "architecture.last_action": card.last_action,
    }


def load(recipe: TrainRecipe, spec: EnvironmentSpec) -> StudentPolicy:
    """Return the students that a recipe starts from.

    Raises
    ------
    CheckpointError, StorageError
        They are missing, were altered, or are others than those that the recipe means.
    MismatchError
        The recipe or the environment does not fit them.
    """
    from kd_offline.students.policy import restore

    start = recipe.start
    assert start is not None  # noqa: S101 - asked by the caller
    students = read_students(Path(start.run))
    if students.digests().get(start.seed) != start.digest:
        msg = (
            f"the students of seed {start.seed} in {str(Path(start.run) / STUDENTS)!r} are not "
            f"those that the recipe starts from ({start.digest[:19]}): restore them, or name "
            "the run anew"
        )
        raise CheckpointError(msg)
    _check_fits(recipe, spec, students.card)
    return next(team for team in restore(students) if team.seed == start.seed)


def _check_fits(recipe: TrainRecipe, spec: EnvironmentSpec, card: StudentCard) -> None:
    assert recipe.start is not None  # noqa: S101 - asked by the caller
    run = recipe.start.run
    for path, required in settings_of(card, recipe.start.seed).items():
        stated = attrgetter(path)(recipe)
        if stated != required:
            msg = (
                f"the recipe's {path} is {_setting_text(stated)}, that of the students in {run!r} "
                f"is {_setting_text(required)}: leave it out, or start from other students"
            )
            raise MismatchError(msg)
    for name in ("agents", "obs_widths", "action_counts"):
        installed, distilled = getattr(spec, name), getattr(card.environment, name)
        if installed != distilled:
            msg = (
                f"the students in {run!r} were distilled for {spec.id} with the {name} "
                f"{distilled}, and here it has {installed}: install the "
                "version that was recorded, or distil again"
            )
            raise MismatchError(msg)


def _setting_text(value: Any) -> str:
    """Return a setting as text, widths of layers as ``24-17-20``."""
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else repr(value)


def begin(model: ActorCritic, students: StudentPolicy) -> None:
    """Copy the weights of students, and the scaling of their inputs, into the actors of ``model``.

    Linear maps before a student's first matrix (an aligner, the bits of a mask) are folded into it.
    Columns of hidden features are zero and stay zero.

    Raises
    ------
    UsageError
        An algorithm built actors that take their inputs in another scale.
    """
    import torch

    from kd_offline.students.folding import fold

    if not model.scaled:
        msg = (
            "the algorithm's actors do not take their inputs in the scale of students, so they "
            "cannot start from any: choose mappo or ippo"
        )
        raise UsageError(msg)
    team, mask = students.team, students.mask.static
    assert mask is not None  # noqa: S101 - the recipe was checked
    for i, (actor, network) in enumerate(zip(model.actors, team.networks, strict=True)):
        weights = network.state_dict()
        with torch.no_grad():
            first = fold(team, i, mask[i])[0]
        used_columns = torch.ones(first.weight.shape[1], dtype=torch.bool)
        if team.inputs.mask:
            width = team.spec.obs_widths[i]
            used_columns[width : 2 * width] = False
        matrix = next(iter(weights))
        weights[matrix] = first.weight[:, used_columns]
        weights[matrix.replace("weight", "bias")] = first.bias
        actor.load_state_dict(weights)
    model.mean.copy_(team.mean)
    model.std.copy_(team.std)
    model.motion_std.copy_(team.motion_std)
