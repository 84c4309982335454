"""From a run folder to the policies that are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import CheckpointError, MismatchError, UsageError
from kd_offline.evaluation.cost import Shape, compacted
from kd_offline.evaluation.play import Contestants
from kd_offline.runs.folder import RunFolder
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.run import RunManifest

if TYPE_CHECKING:
    from kd_offline.experts.expert import Expert
    from kd_offline.students.policy import StudentPolicy


@dataclass(frozen=True, slots=True)
class Parties:
    """Everything that takes part in the evaluation of a run."""

    manifest: RunManifest
    environment: BatchedEnvironment
    who: Contestants
    expert_name: str
    ceiling_name: str | None
    expert_shapes: tuple[Shape, ...]
    student_shapes: tuple[Shape, ...]


def load_parties(
    run: RunFolder, *, expert: str | Path | None = None, ceiling: str | Path | None = None
) -> Parties:
    """Load the environment, the expert, the students and, if given, the ceiling of a run.

    Raises
    ------
    UsageError
        The run is not complete, or does not say which expert was recorded.
    CheckpointError
        An expert or the students cannot be read, or the expert is not the recorded one.
    MismatchError
        The expert or the ceiling does not fit the environment.
    """
    from kd_offline import environments
    from kd_offline.students.policy import load

    manifest = run.manifest()
    if manifest.status != "complete":
        msg = (
            f"{run.path} is {manifest.status}, not complete: resume it with "
            f"kd-offline distill {manifest.dataset.path} -o {run.path} --resume"
        )
        raise UsageError(msg)
    environment = environments.load(manifest.environment, **manifest.environment_kwargs)
    spec = environment.spec
    teacher = _expert(manifest, expert, spec)
    top = None if ceiling is None else _load_expert(ceiling, spec)
    teams = load(run.path)
    _check_seeds(manifest, len(teams))
    return Parties(
        manifest=manifest,
        environment=environment,
        who=Contestants(teacher, tuple(teams), top),
        expert_name=f"{teacher.reference} ({_short(teacher.digest)})",
        ceiling_name=None if top is None else f"{top.reference} ({_short(top.digest)})",
        expert_shapes=expert_shapes(teacher, spec),
        student_shapes=student_shapes(teams[0], spec),
    )


def expert_shapes(expert: Expert, spec: EnvironmentSpec) -> tuple[Shape, ...]:
    """Return the actor that each agent carries; agents that share one carry a copy each."""
    from kd_offline.experts.team import actor_groups

    groups = actor_groups(spec, expert.card.recipe.architecture)
    by_agent = {agent: group.shape for group in groups for agent in group.agents}
    seen = expert.mask()
    if seen is None:
        return tuple(by_agent[i] for i in range(spec.n_agents))
    return tuple(
        compacted(by_agent[i], seen=int(seen[i].sum()), width=spec.obs_widths[i])
        for i in range(spec.n_agents)
    )


def student_shapes(student: StudentPolicy, spec: EnvironmentSpec) -> tuple[Shape, ...]:
    """Return each agent's deployed network, without the columns that a fixed mask hides.

    Under a mask that is drawn for each episode every column is needed.
    """
    seen = student.mask.static
    if seen is None:
        return tuple(student.team.shapes)
    return tuple(
        compacted(shape, seen=int(seen[i].sum()), width=int(spec.obs_widths[i]))
        for i, shape in enumerate(student.team.shapes)
    )


def _expert(manifest: RunManifest, given: str | Path | None, spec: EnvironmentSpec) -> Expert:
    reference = given if given is not None else manifest.expert_reference
    if not reference:
        msg = (
            f"dataset {manifest.dataset.name!r} does not say which expert it recorded: "
            "pass --expert with the folder of that expert, or bundled"
        )
        raise UsageError(msg)
    loaded = _load_expert(reference, spec)
    if manifest.expert and loaded.digest != manifest.expert:
        msg = (
            f"expert {str(reference)!r} has the weights {_short(loaded.digest)}, the dataset "
            f"recorded {_short(manifest.expert)}: pass --expert with the recorded one"
        )
        raise CheckpointError(msg)
    return loaded


def _load_expert(reference: str | Path, spec: EnvironmentSpec) -> Expert:
    from kd_offline.experts.load import load

    # The critic acts in no evaluation; leaving it out halves the work.
    return replace(load(reference, spec), with_value=False)


def _check_seeds(manifest: RunManifest, teams: int) -> None:
    if teams != len(manifest.seeds):
        msg = (
            f"the run lists the seeds {manifest.seeds} and holds {teams} student teams: "
            "its files belong to different runs, so distil again"
        )
        raise MismatchError(msg)


def _short(digest: str) -> str:
    return digest[:19]
