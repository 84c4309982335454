"""Which networks of a run are timed: one for each shape, of the expert and of the students."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kd_offline.errors import KdOfflineError, UsageError
from kd_offline.evaluation.engines import Subject
from kd_offline.evaluation.evaluation_setup import recorded_expert, student_shapes
from kd_offline.networks.arithmetic import ExportedShape, Shape, memory_cost, network_cost
from kd_offline.runs.teams import load_teams
from kd_offline.schemas.latency import Unavailable

if TYPE_CHECKING:
    from kd_offline.experts.protocol import Expert
    from kd_offline.exports.network import AgentNetwork
    from kd_offline.runs.folder import RunFolder
    from kd_offline.schemas.environment import EnvironmentSpec
    from kd_offline.students.policy import StudentPolicy


def subjects(
    run: RunFolder,
    *,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    opponents: Sequence[str] = (),
) -> tuple[list[Subject], list[Unavailable]]:
    """Return the networks of a run, and why the expert's are not among them where they are not.

    Raises
    ------
    UsageError, CheckpointError
        The run is not complete or was altered, or an expert that was given cannot be used.
    """
    manifest = run.manifest()
    student = load_teams(run, manifest)[0]
    spec = student.card.environment
    try:
        teacher = recorded_expert(manifest, expert, expert_recipe, spec, opponents)
        found = of_expert(teacher, spec)
    except KdOfflineError as error:
        if expert is not None:
            raise
        reason = " ".join(str(error).split())
        missing = [Unavailable(engine="torch", who="expert", reason=reason)]
        return of_students(student), missing
    return [*found, *of_students(student)], []


def of_students(student: StudentPolicy) -> list[Subject]:
    """Return one exported network for each shape of a team."""
    from kd_offline.exports.compact import compact

    spec = student.card.environment
    return _exported("student", compact(student), student_shapes(student, spec), spec)


def of_expert(expert: Expert, spec: EnvironmentSpec) -> list[Subject]:
    """Return one network for each shape of an expert, in the form in which students are exported.

    The networks of another library, which have layers that no export has, are timed as they are.

    Raises
    ------
    UsageError
        It is a policy whose networks are not ours to run.
    """
    from kd_offline.exports.compact import compact_expert

    shapes = expert.actor_shapes()
    if expert.team is not None:
        return _exported("expert", compact_expert(expert), shapes, spec)
    if not expert.modules:
        msg = (
            f"expert {expert.reference!r} runs in its own library, so a decision of it is not "
            "timed here: time it there"
        )
        raise UsageError(msg)
    actors, costs = expert.modules, [network_cost(shape) for shape in shapes]
    return [
        Subject(
            who="expert",
            agents=tuple(spec.agents[i] for i in same),
            inputs=actors[same[0]].inputs,
            actions=spec.action_counts[same[0]],
            macs=costs[same[0]].macs,
            parameter_bytes=4 * costs[same[0]].parameters,
            actor=actors[same[0]],
        )
        for same in _alike(costs)
    ]


def _exported(
    who: Literal["expert", "student"],
    networks: Sequence[AgentNetwork],
    shapes: Sequence[Shape],
    spec: EnvironmentSpec,
) -> list[Subject]:
    from kd_offline.exports.contract import contracts

    agents = contracts(networks, spec)
    return [
        Subject(
            who=who,
            agents=tuple(spec.agents[i] for i in same),
            inputs=agents[same[0]].inputs,
            actions=networks[same[0]].actions,
            macs=networks[same[0]].macs,
            parameter_bytes=networks[same[0]].parameter_bytes,
            ram_bytes=_ram(shapes[same[0]]),
            network=networks[same[0]],
            contract=agents[same[0]],
        )
        for same in _alike(shapes)
    ]


def _ram(shape: Shape) -> int | None:
    """Return the bytes of the exported C's buffers, where that is an exported shape."""
    return memory_cost(shape).ram if isinstance(shape, ExportedShape) else None


def _alike(keys: Iterable[object]) -> list[list[int]]:
    """Return indices grouped by equal keys, which can be hashed, in order of first appearance."""
    groups: dict[object, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())
