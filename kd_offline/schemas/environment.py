"""Description of an environment, as expert cards and dataset manifests hold it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kd_offline.schemas.bounds import (
    MAX_AGENTS,
    MAX_TEAM_NUMBERS,
    Actions,
    Observation,
    State,
    Steps,
)

Scalar = bool | int | float | str
MAX_RANDOM_K = 2**31 - 1  # features of an agent that a drawn mask can show


class Strict(BaseModel):
    """Base of every model that we read or write: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EnvironmentSpec(Strict):
    """Static description of one environment.

    ``blocks`` maps agent -> block name -> half-open index ranges into that agent's observation;
    student masks are written in these names. ``sides`` groups the agents that share an interest:
    the team reward of a side is the mean of its agents' rewards.
    """

    id: str
    version: str
    kwargs: dict[str, Scalar] = Field(default_factory=dict)
    agents: tuple[str, ...] = Field(min_length=1, max_length=MAX_AGENTS)
    obs_widths: tuple[Observation, ...]
    action_counts: tuple[Actions, ...]
    action_names: tuple[tuple[str, ...], ...]
    episode_limit: Steps
    reward: Literal["team", "per_agent"]
    sides: dict[str, tuple[str, ...]]
    state_width: State
    state_is_obs: bool = Field(description="state is the concatenation of the unpadded obs")
    blocks: dict[str, dict[str, tuple[tuple[Observation, Observation], ...]]]

    @model_validator(mode="after")
    def _consistent(self) -> EnvironmentSpec:
        n = len(self.agents)
        if not len(self.obs_widths) == len(self.action_counts) == len(self.action_names) == n:
            msg = f"every per-agent field must have {n} entries, one for each agent"
            raise ValueError(msg)
        if sorted(a for side in self.sides.values() for a in side) != sorted(self.agents):
            msg = "every agent must belong to exactly one side"
            raise ValueError(msg)
        if set(self.blocks) != set(self.agents):
            msg = "blocks must name every agent once"
            raise ValueError(msg)
        if n * max(self.obs_width, self.action_count) > MAX_TEAM_NUMBERS:
            msg = f"agents may see {MAX_TEAM_NUMBERS:,} numbers together, and have as many actions"
            raise ValueError(msg)
        for agent, width in zip(self.agents, self.obs_widths, strict=True):
            for name, ranges in self.blocks[agent].items():
                if any(stop > width for _, stop in ranges) or _size(ranges) > width:
                    msg = f"block {name!r} of {agent!r} lies beyond its {width} numbers"
                    raise ValueError(msg)
        return self

    @property
    def n_agents(self) -> int:
        """Number of agents, N."""
        return len(self.agents)

    @property
    def obs_width(self) -> int:
        """Padded observation width, O."""
        return max(self.obs_widths)

    @property
    def action_count(self) -> int:
        """Padded number of actions, A."""
        return max(self.action_counts)

    @property
    def side_of(self) -> tuple[int, ...]:
        """Index of each agent's side, in the order of ``sides``."""
        index = {agent: k for k, side in enumerate(self.sides.values()) for agent in side}
        return tuple(index[agent] for agent in self.agents)


def _size(ranges: tuple[tuple[int, int], ...]) -> int:
    return sum(max(0, stop - start) for start, stop in ranges)
