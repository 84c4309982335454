"""``deploy-check``: whether a team can act where its agents are given a certain interface.

The interface comes from a file or from an environment. Every agent of the team is compared with
one agent of it: observations, actions, memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kd_offline.deployment.document import read_profile
from kd_offline.errors import UsageError
from kd_offline.recipes import read_tree
from kd_offline.schemas.collaboration import (
    AgentProfile,
    CollaborationProfile,
    ObservationBlock,
    TimedEngine,
)
from kd_offline.schemas.interface import (
    AgentFit,
    AgentInterface,
    BlockFit,
    InterfaceCheck,
    InterfaceSpec,
    Mismatch,
)

if TYPE_CHECKING:
    from kd_offline.schemas.environment import EnvironmentSpec

_MEANING = (
    "names, widths and orders were compared; that the numbers mean the same, in the same units, "
    "is for the interface's maker to see to"
)


def deploy_check(
    profile: str | Path | CollaborationProfile,
    interface: str | Path | InterfaceSpec | None = None,
    *,
    environment: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> InterfaceCheck:
    """Tell whether an agent interface fits a team.

    Parameters
    ----------
    profile : path or CollaborationProfile
        A profile, or the folder of a run or an export that holds one.
    interface : path or InterfaceSpec, optional
        TOML or JSON file; its schema is ``interface``.
    environment : str, optional
        Name of an installed environment whose interface is taken instead.
    settings : mapping, optional
        Settings of that environment.

    Raises
    ------
    UsageError
        Neither or both of ``interface`` and ``environment`` are given, or one cannot be read.
    CheckpointError, FormatVersionError
        The profile cannot be used.
    """
    if (interface is None) == (environment is None) or (settings and environment is None):
        msg = (
            "give either an interface file or the name of an environment, and settings only with "
            "an environment"
        )
        raise UsageError(msg)
    team = profile if isinstance(profile, CollaborationProfile) else read_profile(profile)
    if environment is not None:
        given = of_environment(environment, dict(settings or {}))
    elif isinstance(interface, InterfaceSpec):
        given = interface
    else:
        given = read_interface(str(interface))
    return compare(team, given)


def compare(team: CollaborationProfile, given: InterfaceSpec) -> InterfaceCheck:
    """Hold a team against an interface; see :func:`deploy_check`."""
    shared = [agent for agent in team.agents if agent.contract.agent in given.agents]
    found = [agent_fit(a, given.agents[a.contract.agent], team) for a in shared]
    mismatches = [
        *_of_agents(team, given),
        *(mismatch for _, wrong, _ in found for mismatch in wrong),
        *_of_state(team, given),
        *_of_communication(given),
        *_of_rate(team, given),
    ]
    notes = [note for _, _, harmless in found for note in harmless]
    if given.communication == "offered":
        notes.append("the interface offers communication, which the students do not use")
    return InterfaceCheck(
        fits=not mismatches,
        environment=team.environment,
        interface=given.name or "interface",
        mismatches=tuple(mismatches),
        agents=tuple(fit for fit, _, _ in found),
        notes=tuple(notes),
        not_checked=(_MEANING, *_unchecked(team, given)),
    )


def _of_agents(team: CollaborationProfile, given: InterfaceSpec) -> Iterator[Mismatch]:
    names = [agent.contract.agent for agent in team.agents]
    for name in names:
        if name not in given.agents:
            what = f"the team has the agent {name}, which the interface does not have"
            yield Mismatch(where=f"agents.{name}", what=what)
    for name in given.agents:
        if name not in names:
            what = f"the interface has the agent {name}, for whom there is no student; the team's "
            yield Mismatch(where=f"agents.{name}", what=what + f"agents are {', '.join(names)}")


def _of_state(team: CollaborationProfile, given: InterfaceSpec) -> Iterator[Mismatch]:
    if not (keeping := team.hidden_state.agents):
        return
    who = ", ".join(keeping)
    if not given.hidden_state.kept:
        what = f"the memory of {who} must be handed back at every step, and is not kept"
        yield Mismatch(where="hidden_state.kept", what=what)
    elif not given.hidden_state.reset_at_episode_start:
        what = f"the memory of {who} must be zero at the start of every episode, and is not reset"
        yield Mismatch(where="hidden_state.reset_at_episode_start", what=what)


def _of_communication(given: InterfaceSpec) -> Iterator[Mismatch]:
    if given.communication == "required":
        what = "the interface requires messages between agents, and the students send none"
        yield Mismatch(where="communication", what=what)


def _of_rate(team: CollaborationProfile, given: InterfaceSpec) -> Iterator[Mismatch]:
    """Refuse a rate that even the machine on which the students were timed does not keep up."""
    if given.step_rate_hz is None:
        return
    period = 1e6 / given.step_rate_hz
    for name in (agent.contract.agent for agent in team.agents):
        best = _fastest(team, name)
        if best is not None and name in given.agents and best.p99_us > period:
            yield Mismatch(
                where="step_rate_hz",
                what=f"{name} has {period:,.0f} us for a step, and 1 in 100 took longer than "
                f"{best.p99_us:,.0f} us in {best.engine}, the fastest engine that was timed, on "
                f"{_machine(team)}",
            )


def _unchecked(team: CollaborationProfile, given: InterfaceSpec) -> Iterator[str]:
    if given.step_rate_hz is not None:
        names = [agent.contract.agent for agent in team.agents]
        if all(_fastest(team, name) is None for name in names):
            yield "the step rate, because the profile has no latency of the students"
        else:
            yield f"the step rate on other machines than {_machine(team)}"
    for agent in team.agents:
        asked = given.agents.get(agent.contract.agent)
        flash, _, how = needed(agent, team)
        if asked is not None and asked.flash_bytes is not None and "without code" in how:
            yield f"the code of {agent.contract.agent}, beside {flash or 0:,} bytes of tables"


def _fastest(team: CollaborationProfile, agent: str) -> TimedEngine | None:
    timed = () if team.envelope.latency is None else team.envelope.latency.engines
    mine = [row for row in timed if row.who == "student" and agent in row.agents and row.batch == 1]
    return min(mine, key=lambda row: row.p99_us, default=None)


def _machine(team: CollaborationProfile) -> str:
    latency = team.envelope.latency
    return "a machine" if latency is None else latency.machine.processor


_MISFITS: tuple[BlockFit, ...] = ("missing", "another width")


def agent_fit(
    agent: AgentProfile, given: AgentInterface, team: CollaborationProfile
) -> tuple[AgentFit, list[Mismatch], list[str]]:
    """Return how an agent fits, why it does not, and what differs without doing harm."""
    name = agent.contract.agent
    where = f"agents.{name}"
    blocks = {block.name: _block(block, given) for block in agent.blocks}
    mismatches = [
        *_of_blocks(agent, given, blocks, where),
        *_of_actions(agent.contract.actions, given.actions, where),
        *_of_memory(agent, given, team, where),
    ]
    observation = _gathered(agent, given, blocks)
    actions = _numbers(agent.contract.actions, given.actions)
    fit = AgentFit(
        agent=name,
        fits=not mismatches,
        as_it_is=observation == agent.contract.seen and given.actions == agent.contract.actions,
        blocks=blocks,
        observation=observation,
        actions=actions,
    )
    return fit, mismatches, list(_harmless(agent, given, fit))


def _indices(ranges: Sequence[tuple[int, int]]) -> list[int]:
    return [k for start, stop in ranges for k in range(start, stop)]


def _block(block: ObservationBlock, given: AgentInterface) -> BlockFit:
    if not block.seen:
        return "hidden from the student"
    ranges = given.blocks.get(block.name)
    if ranges is None:
        return "missing"
    if len(_indices(ranges)) != block.width:
        return "another width"
    return "same place" if _indices(ranges) == _indices(block.ranges) else "moved"


def _of_blocks(
    agent: AgentProfile, given: AgentInterface, blocks: dict[str, BlockFit], where: str
) -> Iterator[Mismatch]:
    name = agent.contract.agent
    for block in agent.blocks:
        at = f"{where}.blocks.{block.name}"
        if blocks[block.name] == "missing":
            text = f"{name} needs the block {block.name!r} of {_numbers_of(block.width)}"
            yield Mismatch(where=at, what=f"{text}, which the interface does not have")
        if blocks[block.name] == "another width":
            width = len(_indices(given.blocks[block.name]))
            text = f"{name}'s block {block.name!r} has {_numbers_of(width)}"
            yield Mismatch(where=at, what=f"{text}, the student was trained with {block.width}")
    # Without a block's name there is only the place to go by.
    if _nameless(agent) and given.observation_width != agent.contract.obs_width:
        yield Mismatch(
            where=f"{where}.observation_width",
            what=f"{name} sees {_numbers_of(len(_nameless(agent)))} that belong to no block, so "
            f"the observation must have the width {agent.contract.obs_width}, "
            f"not {given.observation_width}",
        )


def _of_actions(ours: Sequence[str], theirs: Sequence[str], where: str) -> Iterator[Mismatch]:
    if more := [action for action in theirs if action not in ours]:
        yield Mismatch(
            where=f"{where}.actions",
            what=f"the interface has the actions {', '.join(more)}, which the student does not "
            f"know; it was trained with {', '.join(ours)}",
        )
    if fewer := [action for action in ours if action not in theirs]:
        yield Mismatch(
            where=f"{where}.actions",
            what=f"the student may choose {', '.join(fewer)}, which the interface does not have",
        )


def _of_memory(
    agent: AgentProfile, given: AgentInterface, team: CollaborationProfile, where: str
) -> Iterator[Mismatch]:
    flash, ram, how = needed(agent, team)
    for what, need, limit in (
        ("flash", flash, given.flash_bytes),
        ("ram", ram, given.ram_bytes),
    ):
        if need is not None and limit is not None and need > limit:
            yield Mismatch(
                where=f"{where}.{what}_bytes",
                what=f"{agent.contract.agent} needs {need:,} bytes of {what} ({how}), and there "
                f"are {limit:,}",
            )


def needed(agent: AgentProfile, team: CollaborationProfile) -> tuple[int | None, int | None, str]:
    """Return bytes of flash and of RAM, None where not known, and what they count."""
    cores = [] if team.export is None else team.export.cores
    mine = [core for core in cores if core.symbol == agent.contract.symbol]
    if mine:
        flash, ram = max(c.flash_bytes for c in mine), max(c.ram_bytes for c in mine)
        return flash, ram, "as linked for a microcontroller, without the stack"
    held = agent.cost.memory
    tables = None if held is None else held.flash
    if team.export is not None and team.export.precision != "fp32":
        tables = agent.contract.parameter_bytes
    return tables, None if held is None else held.ram, "of the C tables and buffers, without code"


def _gathered(
    agent: AgentProfile, given: AgentInterface, blocks: dict[str, BlockFit]
) -> tuple[int, ...] | None:
    """Return where each number that the step takes lies in the interface's observation."""
    if any(fit in _MISFITS for fit in blocks.values()):
        return None
    if _nameless(agent) and given.observation_width != agent.contract.obs_width:
        return None
    moved = {k: k for k in _nameless(agent)}
    for block in agent.blocks:
        if block.seen:
            moved |= zip(_indices(block.ranges), _indices(given.blocks[block.name]), strict=True)
    return tuple(moved[k] for k in agent.contract.seen)


def _nameless(agent: AgentProfile) -> list[int]:
    """Return what the student sees and no block holds."""
    named = {k for block in agent.blocks for k in _indices(block.ranges)}
    return [k for k in agent.contract.seen if k not in named]


def _numbers(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...] | None:
    if sorted(ours) != sorted(theirs):
        return None
    return tuple(theirs.index(action) for action in ours)


def _harmless(agent: AgentProfile, given: AgentInterface, fit: AgentFit) -> Iterator[str]:
    name = agent.contract.agent
    hidden = [b.name for b in agent.blocks if not b.seen and b.name not in given.blocks]
    if hidden:
        yield f"{name} does not need {', '.join(hidden)}: the student's mask hides it anyway"
    ours = {block.name for block in agent.blocks}
    if more := [block for block in given.blocks if block not in ours]:
        yield f"{name} leaves the blocks {', '.join(more)} of the interface unused"
    moved = fit.observation is not None and fit.observation != agent.contract.seen
    if moved and fit.observation is not None:
        yield f"{name} takes the numbers {_list(fit.observation)} of the interface, in that order"
    if fit.actions is not None and list(fit.actions) != sorted(fit.actions):
        yield (
            f"{name} has its actions in another order: its actions have the numbers "
            f"{_list(fit.actions)} of the interface"
        )


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _numbers_of(count: int) -> str:
    return f"{count} number{'s' * (count != 1)}"


def read_interface(path: str | Path) -> InterfaceSpec:
    """Read an interface from a TOML or a JSON file.

    Raises
    ------
    UsageError
        It cannot be read, or is no interface.
    """
    tree = read_tree(path, "interface")
    try:
        return InterfaceSpec.model_validate_json(json.dumps(tree))
    except (ValidationError, TypeError) as error:
        raise UsageError(_sentence(error, path)) from None


def interface_of(spec: EnvironmentSpec) -> InterfaceSpec:
    """Return the interface that an environment gives its agents."""
    agents = {
        agent: AgentInterface(observation_width=width, blocks=spec.blocks[agent], actions=actions)
        for agent, width, actions in zip(
            spec.agents, spec.obs_widths, spec.action_names, strict=True
        )
    }
    return InterfaceSpec(name=spec.id, agents=agents)


def of_environment(name: str, settings: dict[str, Any]) -> InterfaceSpec:
    """Return the interface of an installed environment.

    Raises
    ------
    UnknownNameError, UsageError, MissingExtraError
        It cannot be loaded.
    """
    from kd_offline import environments

    environment = environments.load(name, **settings)
    try:
        return interface_of(environment.spec)
    finally:
        environment.close()


def _sentence(error: ValidationError | TypeError, path: str | Path) -> str:
    if isinstance(error, TypeError):
        return f"interface {str(path)!r} holds a date or a time: {error}; correct the file"
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the document"
    reason = first["msg"].removeprefix("Value error, ")
    return (
        f"interface {str(path)!r} is wrong at {where}: {reason[:1].lower()}{reason[1:]}; "
        "kd-offline schema interface tells what it holds"
    )
