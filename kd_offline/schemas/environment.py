"""Description of an environment, as expert cards and dataset manifests hold it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

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


Blocks = dict[str, dict[str, tuple[tuple[Observation, Observation], ...]]]
"""Agent -> name of a block -> half-open index ranges into what the agent sees."""


class FullObservation(Strict):
    """Full observations of agents, in the order of the environment's agents."""

    widths: tuple[Observation, ...]
    blocks: Blocks

    @property
    def width(self) -> int:
        """Padded width, F."""
        return max(self.widths)


class EnvironmentSpec(Strict):
    """Static description of one environment.

    ``blocks`` maps agent -> block name -> half-open index ranges into that agent's observation;
    student masks are written in these names. ``sides`` groups the agents that share an interest:
    the team reward of a side is the mean of its agents' rewards. ``full`` describes full
    observations where an expert acts by them or a dataset holds them; it is left out of JSON
    elsewhere, and no part of what makes two environments the same.
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
    blocks: Blocks
    full: FullObservation | None = Field(
        default=None, description="what agents would see with nothing hidden; left out where unused"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Digests of documents that hold no full observations stay those of earlier versions.
        document: dict[str, Any] = handler(self)
        if self.full is None:
            document.pop("full", None)
        return document

    @model_validator(mode="after")
    def _consistent(self) -> EnvironmentSpec:
        n = len(self.agents)
        if not len(self.obs_widths) == len(self.action_counts) == len(self.action_names) == n:
            msg = f"every per-agent field must have {n} entries, one for each agent"
            raise ValueError(msg)
        if sorted(a for side in self.sides.values() for a in side) != sorted(self.agents):
            msg = "every agent must belong to exactly one side"
            raise ValueError(msg)
        seen = [("", self.obs_widths, self.blocks)]
        if self.full is not None:
            seen.append(("full ", self.full.widths, self.full.blocks))
        for kind, widths, blocks in seen:
            _check_blocks(kind, self.agents, widths, blocks)
        widest = max(self.action_count, *(width for _, widths, _ in seen for width in widths))
        if n * widest > MAX_TEAM_NUMBERS:
            msg = f"agents may see {MAX_TEAM_NUMBERS:,} numbers together, and have as many actions"
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
    def local(self) -> EnvironmentSpec:
        """The environment as agents see it: without the description of full observations."""
        return self if self.full is None else self.model_copy(update={"full": None})

    @property
    def side_of(self) -> tuple[int, ...]:
        """Index of each agent's side, in the order of ``sides``."""
        index = {agent: k for k, side in enumerate(self.sides.values()) for agent in side}
        return tuple(index[agent] for agent in self.agents)


def _check_blocks(
    kind: str, agents: tuple[str, ...], widths: tuple[int, ...], blocks: Blocks
) -> None:
    if set(blocks) != set(agents):
        msg = f"{kind}blocks must name every agent once"
        raise ValueError(msg)
    if len(widths) != len(agents):
        msg = f"{kind}widths must have {len(agents)} entries, one for each agent"
        raise ValueError(msg)
    for agent, width in zip(agents, widths, strict=True):
        for name, ranges in blocks[agent].items():
            if any(stop > width for _, stop in ranges) or _size(ranges) > width:
                msg = f"{kind}block {name!r} of {agent!r} lies beyond its {width} numbers"
                raise ValueError(msg)


def _size(ranges: tuple[tuple[int, int], ...]) -> int:
    return sum(max(0, stop - start) for start, stop in ranges)
