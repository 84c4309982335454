"""Which networks of a run are timed: one for each shape, of the expert and of the students."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kd_offline.errors import CheckpointError, KdOfflineError, UsageError
from kd_offline.evaluation.engines import Subject
from kd_offline.evaluation.parties import expert_shapes, recorded_expert, student_shapes
from kd_offline.networks.arithmetic import memory_cost, network_cost
from kd_offline.schemas.latency import Unavailable

if TYPE_CHECKING:
    from kd_offline.experts.load import AnyExpert
    from kd_offline.runs.folder import RunFolder
    from kd_offline.schemas.environment import EnvironmentSpec
    from kd_offline.students.policy import StudentPolicy

Key = TypeVar("Key", bound=Hashable)


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
    from kd_offline.students.policy import digest, load

    manifest = run.manifest()
    if manifest.status != "complete":
        msg = f"the run in {str(run.path)!r} is {manifest.status}: finish it with distill --resume"
        raise UsageError(msg)
    student = load(run.path)[0]
    if digest(student.team) not in {result.digest for result in manifest.results}:
        msg = (
            f"the students in {str(run.path)!r} are not the ones that its run.json describes: the "
            "run was altered, so restore it or distil again"
        )
        raise CheckpointError(msg)
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
    from kd_offline.exports.contract import contracts

    spec = student.card.environment
    networks = compact(student)
    agents = contracts(networks, spec)
    shapes = student_shapes(student, spec)
    return [
        Subject(
            who="student",
            agents=tuple(spec.agents[i] for i in same),
            inputs=agents[same[0]].inputs,
            actions=networks[same[0]].actions,
            macs=networks[same[0]].macs,
            parameter_bytes=networks[same[0]].parameter_bytes,
            ram_bytes=memory_cost(shapes[same[0]]).ram,
            network=networks[same[0]],
            contract=agents[same[0]],
        )
        for same in _alike(shapes)
    ]


def of_expert(expert: AnyExpert, spec: EnvironmentSpec) -> list[Subject]:
    """Return one actor for each shape of an expert.

    Raises
    ------
    UsageError
        It is a policy whose networks are not ours to run.
    """
    shapes, actors = expert_shapes(expert, spec), _actors(expert, spec)
    costs = [network_cost(shape) for shape in shapes]
    return [
        Subject(
            who="expert",
            agents=tuple(spec.agents[i] for i in same),
            inputs=actors[same[0]].inputs,
            actions=spec.action_counts[same[0]],
            macs=costs[same[0]].macs,
            parameter_bytes=4 * costs[same[0]].parameters,
            actor=actors[same[0]].network,
        )
        for same in _alike(costs)
    ]


class _Actor:
    """An agent's module and how wide its input is."""

    def __init__(self, network: Any, inputs: int) -> None:
        self.network, self.inputs = network, inputs


def _actors(expert: AnyExpert, spec: EnvironmentSpec) -> list[_Actor]:
    """Return the module of each agent."""
    from kd_offline.experts.expert import Expert
    from kd_offline.experts.foreign.team import NetworkTeam
    from kd_offline.experts.team import ActorCritic

    found: dict[int, _Actor] = {}
    if isinstance(expert, Expert):
        team = expert.model if isinstance(expert.model, ActorCritic) else expert.model.agents
        for group, actor in zip(team.groups, team.actors, strict=True):
            found |= dict.fromkeys(group.agents, _Actor(actor.eval(), group.shape.inputs))
    elif isinstance(expert.policy, NetworkTeam):
        for member in expert.policy.actors:
            found |= dict.fromkeys(member.agents, _Actor(member.network, member.network.inputs))
    else:
        msg = (
            f"expert {expert.reference!r} runs in its own library, so a decision of it is not "
            "timed here: time it there"
        )
        raise UsageError(msg)
    return [found[i] for i in range(spec.n_agents)]


def _alike(keys: Iterable[Key]) -> list[list[int]]:
    """Return indices grouped by equal keys, in order of first appearance."""
    groups: dict[Key, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())
