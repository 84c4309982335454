"""``deploy-check``: whether a team can act where its agents are given a certain interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kd_offline.deployment.compatibility import agent_fit, needed
from kd_offline.deployment.document import read_profile
from kd_offline.deployment.interface import of_environment, read_interface
from kd_offline.errors import UsageError
from kd_offline.schemas.collaboration import CollaborationProfile, TimedEngine
from kd_offline.schemas.interface import InterfaceCheck, InterfaceSpec, Mismatch

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
