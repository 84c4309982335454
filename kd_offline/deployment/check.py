"""``deploy-check``: compare the requirements of a team with the interface of its agents.

The interface comes from a file or from an environment. Every agent of the team is compared with the
agent of the same name: observations, actions, memory.
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
    """Return whether an agent interface fits a team, and every mismatch.

    Parameters
    ----------
    profile : path or CollaborationProfile
        A profile, or the folder of a run or an export that holds one.
    interface : path or InterfaceSpec, optional
        TOML or JSON file; its schema is ``interface``.
    environment : str, optional
        Name of an installed environment whose interface is used instead.
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
        spec = environment_interface(environment, dict(settings or {}))
    elif isinstance(interface, InterfaceSpec):
        spec = interface
    else:
        spec = read_interface(str(interface))
    return compare(team, spec)


def compare(team: CollaborationProfile, interface: InterfaceSpec) -> InterfaceCheck:
    """Compare a team with an interface; see :func:`deploy_check`."""
    shared_agents = [agent for agent in team.agents if agent.contract.agent in interface.agents]
    results = [agent_fit(a, interface.agents[a.contract.agent], team) for a in shared_agents]
    mismatches = [
        *_agent_mismatches(team, interface),
        *(mismatch for _, agent_mismatches, _ in results for mismatch in agent_mismatches),
        *_state_mismatches(team, interface),
        *_communication_mismatches(interface),
        *_rate_mismatches(team, interface),
    ]
    notes = [note for _, _, agent_notes in results for note in agent_notes]
    if interface.communication == "offered":
        notes.append("the interface offers communication, which the students do not use")
    return InterfaceCheck(
        fits=not mismatches,
        environment=team.environment,
        interface=interface.name or "interface",
        mismatches=tuple(mismatches),
        agents=tuple(fit for fit, _, _ in results),
        notes=tuple(notes),
        not_checked=(_MEANING, *_unchecked(team, interface)),
    )


def _agent_mismatches(team: CollaborationProfile, interface: InterfaceSpec) -> Iterator[Mismatch]:
    names = [agent.contract.agent for agent in team.agents]
    for name in names:
        if name not in interface.agents:
            what = f"the team has the agent {name}, which the interface does not have"
            yield Mismatch(where=f"agents.{name}", what=what)
    for name in interface.agents:
        if name not in names:
            what = f"the interface has the agent {name}, for whom there is no student; the team's "
            yield Mismatch(where=f"agents.{name}", what=what + f"agents are {', '.join(names)}")


def _state_mismatches(team: CollaborationProfile, interface: InterfaceSpec) -> Iterator[Mismatch]:
    if not (agents_with_memory := team.hidden_state.agents):
        return
    names = ", ".join(agents_with_memory)
    if not interface.hidden_state.kept:
        what = f"the memory of {names} must be handed back at every step, and is not kept"
        yield Mismatch(where="hidden_state.kept", what=what)
    elif not interface.hidden_state.reset_at_episode_start:
        what = f"the memory of {names} must be zero at the start of every episode, and is not reset"
        yield Mismatch(where="hidden_state.reset_at_episode_start", what=what)


def _communication_mismatches(interface: InterfaceSpec) -> Iterator[Mismatch]:
    if interface.communication == "required":
        what = "the interface requires messages between agents, and the students send none"
        yield Mismatch(where="communication", what=what)


def _rate_mismatches(team: CollaborationProfile, interface: InterfaceSpec) -> Iterator[Mismatch]:
    """Yield a mismatch for each agent whose measured time of a step exceeds the period."""
    if interface.step_rate_hz is None:
        return
    period = 1e6 / interface.step_rate_hz
    for name in (agent.contract.agent for agent in team.agents):
        fastest = _fastest(team, name)
        if fastest is not None and name in interface.agents and fastest.p99_us > period:
            yield Mismatch(
                where="step_rate_hz",
                what=f"{name} has {period:,.0f} us for a step, and 1 in 100 took longer than "
                f"{fastest.p99_us:,.0f} us in {fastest.engine}, the fastest engine that was timed, "
                f"on {_machine(team)}",
            )


def _unchecked(team: CollaborationProfile, interface: InterfaceSpec) -> Iterator[str]:
    if interface.step_rate_hz is not None:
        names = [agent.contract.agent for agent in team.agents]
        if all(_fastest(team, name) is None for name in names):
            yield "the step rate, because the profile has no latency of the students"
        else:
            yield f"the step rate on other machines than {_machine(team)}"
    for agent in team.agents:
        agent_interface = interface.agents.get(agent.contract.agent)
        flash, _, basis = required_memory(agent, team)
        if (
            agent_interface is not None
            and agent_interface.flash_bytes is not None
            and "without code" in basis
        ):
            yield f"the code of {agent.contract.agent}, beside {flash or 0:,} bytes of tables"


def _fastest(team: CollaborationProfile, agent: str) -> TimedEngine | None:
    all_rows = () if team.envelope.latency is None else team.envelope.latency.engines
    rows = [
        row for row in all_rows if row.who == "student" and agent in row.agents and row.batch == 1
    ]
    return min(rows, key=lambda row: row.p99_us, default=None)


def _machine(team: CollaborationProfile) -> str:
    latency = team.envelope.latency
    return "a machine" if latency is None else latency.machine.processor


_MISFITS: tuple[BlockFit, ...] = ("missing", "another width")


def agent_fit(
    agent: AgentProfile, interface: AgentInterface, team: CollaborationProfile
) -> tuple[AgentFit, list[Mismatch], list[str]]:
    """Return the fit of an agent, its mismatches, and notes on harmless differences."""
    name = agent.contract.agent
    where = f"agents.{name}"
    blocks = {block.name: _block_fit(block, interface) for block in agent.blocks}
    mismatches = [
        *_block_mismatches(agent, interface, blocks, where),
        *_action_mismatches(agent.contract.actions, interface.actions, where),
        *_memory_mismatches(agent, interface, team, where),
    ]
    observation = _observation_indices(agent, interface, blocks)
    actions = _action_numbers(agent.contract.actions, interface.actions)
    fit = AgentFit(
        agent=name,
        fits=not mismatches,
        as_it_is=observation == agent.contract.seen and interface.actions == agent.contract.actions,
        blocks=blocks,
        observation=observation,
        actions=actions,
    )
    return fit, mismatches, list(_notes(agent, interface, fit))


def _indices(ranges: Sequence[tuple[int, int]]) -> list[int]:
    return [k for start, stop in ranges for k in range(start, stop)]


def _block_fit(block: ObservationBlock, interface: AgentInterface) -> BlockFit:
    if not block.seen:
        return "hidden from the student"
    ranges = interface.blocks.get(block.name)
    if ranges is None:
        return "missing"
    if len(_indices(ranges)) != block.width:
        return "another width"
    return "same place" if _indices(ranges) == _indices(block.ranges) else "moved"


def _block_mismatches(
    agent: AgentProfile, interface: AgentInterface, blocks: dict[str, BlockFit], where: str
) -> Iterator[Mismatch]:
    name = agent.contract.agent
    for block in agent.blocks:
        path = f"{where}.blocks.{block.name}"
        if blocks[block.name] == "missing":
            text = f"{name} needs the block {block.name!r} of {_count_text(block.width)}"
            yield Mismatch(where=path, what=f"{text}, which the interface does not have")
        if blocks[block.name] == "another width":
            width = len(_indices(interface.blocks[block.name]))
            text = f"{name}'s block {block.name!r} has {_count_text(width)}"
            yield Mismatch(where=path, what=f"{text}, the student was trained with {block.width}")
    # Without a block's name there is only the place to go by.
    if _indices_without_block(agent) and interface.observation_width != agent.contract.obs_width:
        yield Mismatch(
            where=f"{where}.observation_width",
            what=f"{name} sees {_count_text(len(_indices_without_block(agent)))} that belong "
            f"to no block, so the observation must have the width {agent.contract.obs_width}, "
            f"not {interface.observation_width}",
        )


def _action_mismatches(
    student_actions: Sequence[str], interface_actions: Sequence[str], where: str
) -> Iterator[Mismatch]:
    if additional := [action for action in interface_actions if action not in student_actions]:
        yield Mismatch(
            where=f"{where}.actions",
            what=f"the interface has the actions {', '.join(additional)}, which the student does "
            f"not know; it was trained with {', '.join(student_actions)}",
        )
    if absent := [action for action in student_actions if action not in interface_actions]:
        yield Mismatch(
            where=f"{where}.actions",
            what=f"the student may choose {', '.join(absent)}, which the interface does not have",
        )


def _memory_mismatches(
    agent: AgentProfile, interface: AgentInterface, team: CollaborationProfile, where: str
) -> Iterator[Mismatch]:
    flash, ram, basis = required_memory(agent, team)
    for what, required, limit in (
        ("flash", flash, interface.flash_bytes),
        ("ram", ram, interface.ram_bytes),
    ):
        if required is not None and limit is not None and required > limit:
            yield Mismatch(
                where=f"{where}.{what}_bytes",
                what=f"{agent.contract.agent} needs {required:,} bytes of {what} ({basis}), and "
                f"there are {limit:,}",
            )


def required_memory(
    agent: AgentProfile, team: CollaborationProfile
) -> tuple[int | None, int | None, str]:
    """Return bytes of flash and of RAM, None where unknown, and what they include."""
    cores = [] if team.export is None else team.export.cores
    own_cores = [core for core in cores if core.symbol == agent.contract.symbol]
    if own_cores:
        flash, ram = max(c.flash_bytes for c in own_cores), max(c.ram_bytes for c in own_cores)
        return flash, ram, "as linked for a microcontroller, without the stack"
    memory = agent.cost.memory
    tables = None if memory is None else memory.flash
    if team.export is not None and team.export.precision != "fp32":
        tables = agent.contract.parameter_bytes
    return (
        tables,
        None if memory is None else memory.ram,
        "of the C tables and buffers, without code",
    )


def _observation_indices(
    agent: AgentProfile, interface: AgentInterface, blocks: dict[str, BlockFit]
) -> tuple[int, ...] | None:
    """Return the interface's index of each input of the step; None if it is unknown."""
    if any(fit in _MISFITS for fit in blocks.values()):
        return None
    if _indices_without_block(agent) and interface.observation_width != agent.contract.obs_width:
        return None
    new_index = {k: k for k in _indices_without_block(agent)}
    for block in agent.blocks:
        if block.seen:
            new_index |= zip(
                _indices(block.ranges), _indices(interface.blocks[block.name]), strict=True
            )
    return tuple(new_index[k] for k in agent.contract.seen)


def _indices_without_block(agent: AgentProfile) -> list[int]:
    """Return the observation indices that the student sees and that belong to no block."""
    in_blocks = {k for block in agent.blocks for k in _indices(block.ranges)}
    return [k for k in agent.contract.seen if k not in in_blocks]


def _action_numbers(
    student_actions: Sequence[str], interface_actions: Sequence[str]
) -> tuple[int, ...] | None:
    if sorted(student_actions) != sorted(interface_actions):
        return None
    return tuple(interface_actions.index(action) for action in student_actions)


def _notes(agent: AgentProfile, interface: AgentInterface, fit: AgentFit) -> Iterator[str]:
    name = agent.contract.agent
    unneeded = [b.name for b in agent.blocks if not b.seen and b.name not in interface.blocks]
    if unneeded:
        yield f"{name} does not need {', '.join(unneeded)}: the student's mask hides it anyway"
    student_blocks = {block.name for block in agent.blocks}
    if unused := [block for block in interface.blocks if block not in student_blocks]:
        yield f"{name} leaves the blocks {', '.join(unused)} of the interface unused"
    reordered = fit.observation is not None and fit.observation != agent.contract.seen
    if reordered and fit.observation is not None:
        yield f"{name} takes the numbers {_list(fit.observation)} of the interface, in that order"
    if fit.actions is not None and list(fit.actions) != sorted(fit.actions):
        yield (
            f"{name} has its actions in another order: its actions have the numbers "
            f"{_list(fit.actions)} of the interface"
        )


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _count_text(count: int) -> str:
    return f"{count} number{'s' * (count != 1)}"


def read_interface(path: str | Path) -> InterfaceSpec:
    """Return the interface that a TOML or a JSON file states.

    Raises
    ------
    UsageError
        It cannot be read, or is no interface.
    """
    tree = read_tree(path, "interface")
    try:
        return InterfaceSpec.model_validate_json(json.dumps(tree))
    except (ValidationError, TypeError) as error:
        raise UsageError(_error_message(error, path)) from None


def interface_of(spec: EnvironmentSpec) -> InterfaceSpec:
    """Return the interface that an environment gives its agents."""
    agents = {
        agent: AgentInterface(observation_width=width, blocks=spec.blocks[agent], actions=actions)
        for agent, width, actions in zip(
            spec.agents, spec.obs_widths, spec.action_names, strict=True
        )
    }
    return InterfaceSpec(name=spec.id, agents=agents)


def environment_interface(name: str, settings: dict[str, Any]) -> InterfaceSpec:
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


def _error_message(error: ValidationError | TypeError, path: str | Path) -> str:
    if isinstance(error, TypeError):
        return f"interface {str(path)!r} holds a date or a time: {error}; correct the file"
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the document"
    reason = first["msg"].removeprefix("Value error, ")
    return (
        f"interface {str(path)!r} is wrong at {where}: {reason[:1].lower()}{reason[1:]}; "
        "kd-offline schema interface tells what it holds"
    )
