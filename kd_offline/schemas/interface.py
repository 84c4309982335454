"""Models of an agent interface and of its comparison with a team."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from kd_offline.schemas.bounds import MAX_AGENTS, Observation
from kd_offline.schemas.environment import Strict

Count = Annotated[int, Field(ge=0)]
Range = tuple[Observation, Observation]
Bytes = PositiveInt


class AgentInterface(Strict):
    """Observation and actions of one agent; ranges are half-open."""

    observation_width: Observation
    blocks: dict[str, tuple[Range, ...]] = Field(
        description="name of an observation block -> where it lies"
    )
    actions: tuple[str, ...] = Field(min_length=1, description="in the order of their numbers")
    flash_bytes: Bytes | None = Field(default=None, description="that the network may take")
    ram_bytes: Bytes | None = None

    @model_validator(mode="after")
    def _consistent(self) -> AgentInterface:
        taken: dict[int, str] = {}
        for name, ranges in self.blocks.items():
            for start, stop in ranges:
                if not start < stop <= self.observation_width:
                    msg = (
                        f"block {name!r} has the range [{start}, {stop}], which is empty or "
                        f"reaches beyond the observation's width of {self.observation_width}"
                    )
                    raise ValueError(msg)
                for index in range(start, stop):
                    if index in taken:
                        others = sorted({taken[index], name})
                        held = " and ".join(map(repr, others))
                        msg = f"the number {index} is there twice: in {held}"
                        raise ValueError(msg)
                    taken[index] = name
        if len(set(self.actions)) < len(self.actions):
            msg = "an action is listed twice"
            raise ValueError(msg)
        return self


class KeptState(Strict):
    """How the interface handles an agent's memory vector."""

    kept: bool = Field(default=True, description="handed back at the next step")
    reset_at_episode_start: bool = True


class InterfaceSpec(Strict):
    """The content of an interface file, TOML or JSON."""

    kind: Literal["kd-offline interface"] = "kd-offline interface"
    version: tuple[Literal[1], Count] = (1, 0)
    name: str = ""
    agents: dict[str, AgentInterface] = Field(min_length=1, max_length=MAX_AGENTS)
    hidden_state: KeptState = KeptState()
    communication: Literal["none", "offered", "required"] = Field(
        default="none", description="between agents while they act"
    )
    step_rate_hz: PositiveFloat | None = Field(default=None, description="decisions a second")


BlockFit = Literal["same place", "moved", "hidden from the student", "missing", "another width"]


class AgentFit(Strict):
    """Whether and how one agent fits."""

    agent: str
    fits: bool
    as_it_is: bool = Field(description="nothing has to be moved")
    blocks: dict[str, BlockFit] = Field(description="every block of the student")
    observation: tuple[Count, ...] | None = Field(
        default=None,
        description="for each number that the step takes, its index in the interface's observation",
    )
    actions: tuple[Count, ...] | None = Field(
        default=None, description="for each action of the student, its number in the interface"
    )


class Mismatch(Strict):
    """One reason why a team does not fit."""

    where: str = Field(description="dotted path in the interface")
    what: str


class InterfaceCheck(Strict):
    """JSON output of ``deploy-check``."""

    fits: bool
    environment: str = Field(description="that the team was made for")
    interface: str
    mismatches: tuple[Mismatch, ...] = ()
    agents: tuple[AgentFit, ...] = ()
    notes: tuple[str, ...] = Field(default=(), description="what differs and does no harm")
    not_checked: tuple[str, ...] = ()
