"""Infer environment, expert and recording of a foreign dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kd_offline.datasets.convert.interchange import ConvertOptions, digest_path
from kd_offline.errors import MismatchError, Remedy, UnknownNameError
from kd_offline.schemas.dataset import (
    ExpertRecord,
    LineageRecord,
    MaskRecord,
    RecordingHeader,
    RecordingRecord,
)
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array

_MAX_ACTIONS = 1 << 15  # actions are int16


@dataclass(frozen=True, slots=True)
class InferredEnvironment:
    """Facts about the environment that the data show; lists have one entry for each agent."""

    obs_widths: Sequence[int]
    action_counts: Sequence[int]
    longest: int  # steps of the longest episode
    state_width: int = 0  # 0: the state is the observations
    agents: Sequence[str] = ()
    reward: str = "per_agent"
    exact: bool = True  # False: there may be more actions than were taken
    blocks: Mapping[str, Mapping[str, tuple[tuple[int, int], ...]]] | None = None
    name: str = ""


def environment_spec(inferred: InferredEnvironment, options: ConvertOptions) -> EnvironmentSpec:
    """Return the environment that the user named, else one made of the inferred values.

    Raises
    ------
    MismatchError
        The named environment is not the one that the data come from.
    """
    if max(inferred.action_counts) > _MAX_ACTIONS:
        got = max(inferred.action_counts)
        msg = f"the source has {got} actions, but at most {_MAX_ACTIONS} can be held"
        raise MismatchError(msg)
    if options.spec is not None:
        return _require_matching(options.spec, inferred).local
    agents = tuple(inferred.agents or (f"agent_{k}" for k in range(len(inferred.obs_widths))))
    everything = {
        agent: {"all": ((0, width),)}
        for agent, width in zip(agents, inferred.obs_widths, strict=True)
    }
    return EnvironmentSpec(
        id=options.name or inferred.name or "unknown",
        version="unknown",
        agents=agents,
        obs_widths=tuple(inferred.obs_widths),
        action_counts=tuple(inferred.action_counts),
        action_names=tuple(tuple(f"action_{k}" for k in range(n)) for n in inferred.action_counts),
        episode_limit=inferred.longest,
        reward="team" if inferred.reward == "team" else "per_agent",
        sides={"team": agents},
        state_width=inferred.state_width or sum(inferred.obs_widths),
        state_is_obs=inferred.state_width == 0,
        blocks={a: dict(b) for a, b in (inferred.blocks or everything).items()},
    )


def single_agent_spec(spec: EnvironmentSpec, agent: str) -> EnvironmentSpec:
    """Return the environment of one agent; the others become part of its dynamics."""
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
            "full": None,  # no format of single agents holds full observations
        }
    )


def import_header(
    spec: EnvironmentSpec,
    source: Path,
    kind: str,
    options: ConvertOptions,
    *,
    experts: Sequence[ExpertRecord] = (),
    licence: str = "",
    citation: str = "",
) -> RecordingHeader:
    """Return the header of an imported dataset: an unknown expert, and the source as lineage."""
    unknown = ExpertRecord(id=0, kind="unknown", reference=f"imported from {kind}", parameters=0)
    arguments = {"from": kind, "source": source.name}
    lineage = LineageRecord(
        operation="convert", parents=(digest_path(source),), arguments=dict(arguments)
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
    """Return a mask by name that hides only padding, bool [N, O]."""
    return {"full": np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]}


def _require_matching(spec: EnvironmentSpec, inferred: InferredEnvironment) -> EnvironmentSpec:
    n = len(inferred.obs_widths)
    named = replace(inferred, agents=inferred.agents or spec.agents)
    problems = [
        (spec.n_agents, n, "agents"),
        (spec.obs_width, max(inferred.obs_widths), "observed features"),
    ]
    if inferred.state_width:
        problems.append((spec.state_width, inferred.state_width, "features of the state"))
    if inferred.exact:
        problems.append((spec.action_count, max(inferred.action_counts), "actions"))
    for expected, actual, what in problems:
        if expected != actual:
            raise _mismatch(spec, f"{expected} {what}, but the source has {actual}")
    if max(inferred.action_counts) > spec.action_count:
        actual = max(inferred.action_counts) - 1
        raise _mismatch(spec, f"{spec.action_count} actions, but the source has an action {actual}")
    if inferred.longest > spec.episode_limit:
        what = f"at most {spec.episode_limit} steps, but an episode of the source has "
        raise _mismatch(spec, f"{what}{inferred.longest}")
    if set(named.agents) != set(spec.agents):
        source_agents = ", ".join(named.agents)
        raise _mismatch(
            spec, f"the agents {', '.join(spec.agents)}, but the source has {source_agents}"
        )
    return spec


def _mismatch(spec: EnvironmentSpec, what: str) -> MismatchError:
    msg = f"the environment {spec.id!r} has {what}"
    return MismatchError(msg, Remedy("give the source's environment or", spec=...))
