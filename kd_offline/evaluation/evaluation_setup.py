"""Load the environment and the policies that take part in the evaluation of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd_offline import code_guard
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import CheckpointError, MismatchError, Remedy, UsageError
from kd_offline.evaluation.exported import ExportedTeam, load_exported
from kd_offline.evaluation.play import PolicySet
from kd_offline.networks.accelerator import device_named, moved
from kd_offline.networks.arithmetic import (
    DeployedShape,
    Shape,
    ValuePart,
)
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import digests
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.run import RunManifest
from kd_offline.students.cost_bounds import card_shape
from kd_offline.user_code import close_all, closed_on_failure

if TYPE_CHECKING:
    from kd_offline.experts.protocol import Expert
    from kd_offline.students.policy import StudentPolicy


@dataclass(frozen=True, slots=True)
class EvaluationSetup:
    """The environment and the policies of an evaluation, with their shapes and names."""

    manifest: RunManifest
    environment: BatchedEnvironment
    policies: PolicySet
    expert_name: str
    ceiling_name: str | None
    expert_shapes: tuple[Shape, ...]
    student_shapes: tuple[Shape, ...]
    critics: tuple[ValuePart, ...] = ()
    exported: ExportedTeam | None = None
    expert_parameters: int = 0  # shared networks counted once; 0: not known
    experts: tuple[Expert, ...] = ()  # all that were given, where several were

    def compared_with(self, best: Expert) -> EvaluationSetup:
        """Return the setup with ``best`` as the expert, and the other experts beside it."""
        others = {_name(expert): expert for expert in self.experts if expert is not best}
        policies = replace(self.policies, expert=best, others=others)
        return replace(self, policies=policies, **_described(best))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Distillation seeds of the teams of students."""
        return self.manifest.seeds if self.exported is None else (self.exported.seed,)

    def __enter__(self) -> EvaluationSetup:
        """Return the setup."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the environment."""
        close_all([self.environment])


@dataclass(frozen=True, slots=True)
class Contestants:
    """The policies that play the same episodes, by their addresses, by which a worker loads them.

    ``students``: digests of the students that the evaluation was begun with. ``best``: index of the
    expert that is compared with, of several; None until that is known.
    """

    run: str
    students: dict[str, str]
    expert: str | Path | tuple[str | Path, ...] | None = None
    expert_recipe: str | Path | None = None
    ceiling: str | Path | None = None
    export: str | Path | None = None
    engine: str | None = None
    environment: str | None = None
    opponents: tuple[str, ...] = ()
    accelerator: str = "cpu"
    best: int | None = None

    def __post_init__(self) -> None:
        if self.engine is not None and self.export is None:
            msg = f"the engine {self.engine!r} runs an export, and none is given"
            raise UsageError(msg, Remedy("pass", "with one", export=...))

    def options(self) -> dict[str, object]:
        """Return what a command says of the policies, for ``command_text``."""
        return {
            "expert": self.expert,
            "expert_recipe": self.expert_recipe,
            "ceiling": self.ceiling,
            "export": self.export,
            "engine": self.engine,
            "environment": self.environment,
            "opponents": self.opponents,
            "accelerator": None if self.accelerator == "cpu" else self.accelerator,
        }

    def computed_on(self, *, here: bool) -> str | None:
        """Return what networks are computed on, for a report; None: on the processor."""
        if self.accelerator == "cpu":
            return None
        return device_named(self.accelerator).type if here else self.accelerator

    def load(self, run: CompleteRun | None = None, *, playing: bool = True) -> EvaluationSetup:
        """Load environment and policies, on the accelerator if they are to play here.

        ``run`` is read unless it is given. Raises as :func:`load_evaluation_setup`, and a
        ``MismatchError`` if the run has other students now.
        """
        complete = run or complete_run(self.run)
        if digests(complete.manifest) != self.students:
            msg = f"the run in {self.run!r} was replaced in the meantime: repeat the command"
            raise MismatchError(msg)
        setup = load_evaluation_setup(
            complete,
            expert=self.expert,
            expert_recipe=self.expert_recipe,
            ceiling=self.ceiling,
            export=self.export,
            engine=self.engine,
            environment=self.environment,
            opponents=self.opponents,
        )
        with closed_on_failure(setup.environment):
            if playing:
                device = device_named(self.accelerator)
                for policy in (*setup.policies.all, *setup.experts[1:]):
                    moved(policy, device)
        return setup if self.best is None else setup.compared_with(setup.experts[self.best])

    def files(self) -> list[Path]:
        """Return the files and folders that are read; without bundled experts and addresses."""
        experts = self.expert if isinstance(self.expert, tuple) else (self.expert,)
        named = (self.run, *experts, self.expert_recipe, self.ceiling, self.export)
        return [Path(name) for name in named if name is not None and Path(name).exists()]


def load_evaluation_setup(
    run: CompleteRun,
    *,
    expert: str | Path | Sequence[str | Path] | None = None,
    expert_recipe: str | Path | None = None,
    ceiling: str | Path | None = None,
    export: str | Path | None = None,
    engine: str | None = None,
    environment: str | None = None,
    opponents: Sequence[str] = (),
) -> EvaluationSetup:
    """Load the environment, the expert, the students and, if given, the ceiling of a run.

    An ``export`` of the run plays instead of its students, in the given engine. ``environment`` and
    ``opponents`` allow code that files may not start by themselves, see
    :mod:`kd_offline.code_guard`.

    Raises
    ------
    UsageError
        The run does not state which expert was recorded.
    CheckpointError
        An expert cannot be read, or is not the recorded one.
    MismatchError
        The expert or the ceiling does not fit the environment.
    """
    from kd_offline import environments

    manifest, teams = run.manifest, run.teams
    environment_instance = environments.load_recorded(
        manifest.environment,
        manifest.environment_kwargs,
        asked_by=f"the run in {str(run.path)!r}",
        allowed=environment,
        parts=manifest.parts,
    )
    with closed_on_failure(environment_instance):
        spec = environment_instance.spec
        experts = _given_experts(manifest, expert, expert_recipe, spec, opponents)
        expert_policy = experts[0]
        ceiling_policy = None if ceiling is None else _load_expert(ceiling, spec, None, opponents)
        _check_fits(teams[0], spec)
        if ceiling_policy is not None:
            _check_ceiling(ceiling_policy, teams[0], manifest.mask)
        exported = None if export is None else load_exported(export, engine, run)
        student_teams = teams if exported is None else (exported.team,)
        return EvaluationSetup(
            manifest=manifest,
            environment=environment_instance,
            policies=PolicySet(
                expert_policy,
                student_teams,
                ceiling_policy,
                ceiling_policy.learned_sides if ceiling_policy else None,
            ),
            ceiling_name=None if ceiling_policy is None else _name(ceiling_policy),
            student_shapes=costliest(teams),
            exported=exported,
            experts=experts,
            **_described(expert_policy),
        )


def _described(expert: Expert) -> dict[str, Any]:
    """Return what a setup states of its expert."""
    return {
        "expert_name": _name(expert),
        "expert_shapes": expert.actor_shapes(),
        "critics": expert.value_parts(),
        "expert_parameters": expert.actor_parameters(),
    }


def _given_experts(
    manifest: RunManifest,
    given: str | Path | Sequence[str | Path] | None,
    recipe: str | Path | None,
    spec: EnvironmentSpec,
    opponents: Sequence[str],
) -> tuple[Expert, ...]:
    """Return the recorded expert, or several that were given, of which it has to be one."""
    if given is None or isinstance(given, str | Path):
        return (recorded_expert(manifest, given, recipe, spec, opponents),)
    references = list(given)
    if len(references) < len(("one", "other")):
        reference = references[0] if references else None
        return (recorded_expert(manifest, reference, recipe, spec, opponents),)
    if len(spec.sides) > 1:
        msg = (
            f"{len(references)} experts are given, and {spec.id} has {len(spec.sides)} sides, on "
            "which each would need opponents: give one expert"
        )
        raise UsageError(msg)
    experts = tuple(_load_expert(each, spec, recipe, opponents) for each in references)
    if manifest.expert and manifest.expert not in {expert.digest for expert in experts}:
        msg = (
            f"none of the {len(experts)} experts has the weights {_short(manifest.expert)} that "
            "the dataset recorded"
        )
        raise CheckpointError(msg, Remedy("pass", "with the recorded one too", expert=...))
    return experts


def student_shapes(student: StudentPolicy) -> tuple[DeployedShape, ...]:
    """Return each agent's network as it is deployed."""
    card = student.card
    return tuple(card_shape(card, i, own) for i, own in enumerate(card.widths_of(student.seed)))


def costliest(teams: Sequence[StudentPolicy]) -> tuple[DeployedShape, ...]:
    """Return the shapes of the team with the most multiply-accumulates, the first of equals.

    Seeds have different shapes only where unit gates chose the units.
    """
    team_shapes = [student_shapes(team) for team in teams]
    return max(team_shapes, key=lambda shapes: sum(shape.cost().macs for shape in shapes))


def recorded_expert(
    manifest: RunManifest,
    given: str | Path | None,
    recipe: str | Path | None,
    spec: EnvironmentSpec,
    opponents: Sequence[str] = (),
) -> Expert:
    """Load the expert that a run's dataset recorded, from its reference or from ``given``.

    Raises
    ------
    UsageError
        The dataset states no usable reference, or may not choose it, and ``given`` is None.
    CheckpointError
        It cannot be read, or is not the recorded one.
    """
    reference = manifest.expert_reference if given is None else given
    if given is None:
        check_reference(manifest.expert_reference, manifest.expert, manifest.dataset.name)
    loaded = _load_expert(reference, spec, recipe, opponents)
    if manifest.expert and loaded.digest != manifest.expert:
        msg = (
            f"expert {str(reference)!r} has the weights {_short(loaded.digest)}, the dataset "
            f"recorded {_short(manifest.expert)}"
        )
        raise CheckpointError(msg, Remedy("pass", "with the recorded one", expert=...))
    return loaded


def check_reference(stated: str, digest: str, dataset: str) -> None:
    """Raise a ``UsageError`` if a file states an expert reference that it may not load.

    ``digest`` of its weights and the name of the ``dataset`` that recorded it are for the message.
    """
    from kd_offline.experts.importers.load import PREFIXES

    # Datasets travel without the paths of the machine that made them.
    if stated in ("", "trained", *PREFIXES):
        place = f"{stated}:PLACE" if stated in PREFIXES else "that expert's folder"
        msg = f"dataset {dataset!r} recorded an expert of its own ({_short(digest) or 'unnamed'})"
        raise UsageError(msg, Remedy("pass", f"with {place}", expert=...))
    code_guard.check_expert(stated, asked_by=f"the dataset {dataset!r}")


def _load_expert(
    reference: str | Path,
    spec: EnvironmentSpec,
    recipe: str | Path | None,
    opponents: Sequence[str],
) -> Expert:
    from kd_offline.experts.load import load

    # The critic acts in no evaluation; leaving it out halves the work.
    return load(reference, spec, recipe, with_value=False, opponents=opponents)


def _check_ceiling(ceiling: Expert, student: StudentPolicy, mask: str) -> None:
    """Raise a ``MismatchError`` if the ceiling was trained under another mask than students."""
    if student.mask.static is None:
        return
    full_mask = np.array([np.arange(student.mask.static.shape[1]) < w for w in student.mask.widths])
    ceiling_mask = ceiling.mask()
    if not np.array_equal(full_mask if ceiling_mask is None else ceiling_mask, student.mask.static):
        trained_mask = ceiling.mask_name or "full"
        msg = (
            f"ceiling {ceiling.reference!r} was trained under the mask {trained_mask!r}, the "
            f"students see {mask!r}: pass a policy that was trained under that mask"
        )
        raise MismatchError(msg)


def _name(expert: Expert) -> str:
    """Return a name of an expert without the folders of this machine."""
    return f"{Path(expert.reference).name} ({_short(expert.digest)})"


def _check_fits(student: StudentPolicy, spec: EnvironmentSpec) -> None:
    """Raise a ``MismatchError`` if agents, observations or actions differ from those here."""
    for name in ("agents", "obs_widths", "action_counts"):
        distilled, installed = getattr(student.card.environment, name), getattr(spec, name)
        if distilled != installed:
            msg = (
                f"the students were distilled for {spec.id} with the {name} {distilled}, and here "
                f"it has {installed}: install the version that was recorded, or distil again"
            )
            raise MismatchError(msg)


def _short(digest: str) -> str:
    return digest[:19]
