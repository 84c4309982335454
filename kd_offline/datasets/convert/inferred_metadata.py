"""Describing what a foreign dataset does not say of itself: environment, expert, recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kd_offline.datasets.convert.interchange import Options, digest_of
from kd_offline.errors import MismatchError, UnknownNameError
from kd_offline.schemas.dataset import (
    ExpertRecord,
    LineageRecord,
    MaskRecord,
    RecordingHeader,
    RecordingRecord,
)
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array

_MOST_ACTIONS = 1 << 15  # actions are int16


@dataclass(frozen=True, slots=True)
class Found:
    """What the data itself tell about an environment; per-agent lists have one entry an agent."""

    obs_widths: Sequence[int]
    action_counts: Sequence[int]
    longest: int  # steps of the longest episode
    state_width: int = 0  # 0: there is no state beside the observations
    agents: Sequence[str] = ()
    reward: str = "per_agent"
    exact: bool = True  # False: there may be more actions than were seen
    blocks: Mapping[str, Mapping[str, tuple[tuple[int, int], ...]]] | None = None
    name: str = ""


def spec_of(found: Found, options: Options) -> EnvironmentSpec:
    """Return the environment that the user names, or else one made of what was found.

    Raises
    ------
    MismatchError
        The named environment is not the one that the data come from.
    """
    if max(found.action_counts) > _MOST_ACTIONS:
        got = max(found.action_counts)
        msg = f"the source has {got} actions, but at most {_MOST_ACTIONS} can be held"
        raise MismatchError(msg)
    if options.spec is not None:
        return _fitting(options.spec, found)
    agents = tuple(found.agents or (f"agent_{k}" for k in range(len(found.obs_widths))))
    everything = {
        agent: {"all": ((0, width),)} for agent, width in zip(agents, found.obs_widths, strict=True)
    }
    return EnvironmentSpec(
        id=options.name or found.name or "unknown",
        version="unknown",
        agents=agents,
        obs_widths=tuple(found.obs_widths),
        action_counts=tuple(found.action_counts),
        action_names=tuple(tuple(f"action_{k}" for k in range(n)) for n in found.action_counts),
        episode_limit=found.longest,
        reward="team" if found.reward == "team" else "per_agent",
        sides={"team": agents},
        state_width=found.state_width or sum(found.obs_widths),
        state_is_obs=found.state_width == 0,
        blocks={a: dict(b) for a, b in (found.blocks or everything).items()},
    )


def only(spec: EnvironmentSpec, agent: str) -> EnvironmentSpec:
    """Return the environment as one of its agents meets it: the others are part of the world."""
    if agent not in spec.agents:
        raise UnknownNameError(what="agent", got=agent, allowed=spec.agents)
    k = spec.agents.index(agent)
    return spec.model_copy(
        update={
            "agents": (agent,),
            "obs_widths": (spec.obs_widths[k],),
            "action_counts": (spec.action_counts[k],),
            "action_names": (spec.action_names[k],),
            "sides": {"team": (agent,)},
            "state_width": spec.obs_widths[k] if spec.state_is_obs else spec.state_width,
            "blocks": {agent: spec.blocks[agent]},
        }
    )


def header_for(
    spec: EnvironmentSpec,
    source: Path,
    kind: str,
    options: Options,
    *,
    experts: Sequence[ExpertRecord] = (),
    licence: str = "",
    citation: str = "",
) -> RecordingHeader:
    """Return the header of an import: an expert of whom nothing is known, and where it is from."""
    unknown = ExpertRecord(id=0, kind="unknown", reference=f"imported from {kind}", parameters=0)
    arguments = {"from": kind, "source": source.name}
    lineage = LineageRecord(
        operation="convert", parents=(digest_of(source),), arguments=dict(arguments)
    )
    return RecordingHeader(
        name=options.name or source.stem or "imported",
        environment=spec,
        experts=tuple(experts) or (unknown,),
        recording=RecordingRecord(seed=0, episodes=0, behaviour="unknown"),
        licence=licence,
        citation=citation,
        lineage=(lineage,),
        masks={"full": MaskRecord(description="everything that the expert sees")},
    )


def full_mask(spec: EnvironmentSpec) -> dict[str, Array]:
    """Return the mask that hides nothing but the padding, bool [N, O], by its name."""
    return {"full": np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]}


def _fitting(spec: EnvironmentSpec, found: Found) -> EnvironmentSpec:
    n = len(found.obs_widths)
    named = replace(found, agents=found.agents or spec.agents)
    problems = [
        (spec.n_agents, n, "agents"),
        (spec.obs_width, max(found.obs_widths), "observed features"),
    ]
    if found.state_width:
        problems.append((spec.state_width, found.state_width, "features of the state"))
    if found.exact:
        problems.append((spec.action_count, max(found.action_counts), "actions"))
    for want, got, what in problems:
        if want != got:
            raise _mismatch(spec, f"{want} {what}, but the source has {got}")
    if max(found.action_counts) > spec.action_count:
        got = max(found.action_counts) - 1
        raise _mismatch(spec, f"{spec.action_count} actions, but the source has an action {got}")
    if found.longest > spec.episode_limit:
        what = f"at most {spec.episode_limit} steps, but an episode of the source has "
        raise _mismatch(spec, f"{what}{found.longest}")
    if set(named.agents) != set(spec.agents):
        theirs = ", ".join(named.agents)
        raise _mismatch(spec, f"the agents {', '.join(spec.agents)}, but the source has {theirs}")
    return spec


def _mismatch(spec: EnvironmentSpec, what: str) -> MismatchError:
    return MismatchError(
        f"the environment {spec.id!r} has {what}: give the environment or --spec of the source"
    )
