"""Models of budgets that students must meet, and of the widths allocated within them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kd_offline.schemas.environment import Strict
from kd_offline.schemas.layers import LayerWidths

Quantity = Literal["latency_us", "flash_kb", "ram_kb", "macs", "energy_uj"]


class Budget(Strict):
    """Upper limits of the cost of a decision, as the model of a device predicts it.

    The flash and the RAM of the device are limits even where none is stated. A KB is 1024 bytes.
    """

    profile: str | None = Field(
        default=None,
        description="hardware profile by name or .toml file; limits of time and energy need one",
    )
    max_latency_us: float | None = Field(
        default=None, gt=0, description="largest time of a step in C, in microseconds"
    )
    max_flash_kb: float | None = Field(
        default=None,
        gt=0,
        description="largest flash of tables and, if its size is known, of code, in KB",
    )
    max_ram_kb: float | None = Field(
        default=None, gt=0, description="largest RAM of buffers and memory, in KB"
    )
    max_macs: int | None = Field(
        default=None, gt=0, description="largest number of multiply-accumulates of a step"
    )
    max_energy_uj: float | None = Field(
        default=None, gt=0, description="largest energy of a step, in microjoules"
    )
    precision: Literal["fp32", "int8"] = Field(
        default="fp32", description="number format of the later export"
    )
    shared_device: bool = Field(
        default=False,
        description="one device runs the whole team, so the costs of its agents are added; "
        "otherwise every agent has its own device",
    )
    allocate: Literal["worth", "gates"] = Field(
        default="worth",
        description="worth: widths are computed before training from the worth of the agents; "
        "gates: widths are learned by gates on hidden units and a penalty on the expected cost",
    )

    @property
    def limits(self) -> dict[Quantity, float]:
        """The stated limits, by quantity."""
        given: dict[Quantity, float | None] = {
            "latency_us": self.max_latency_us,
            "flash_kb": self.max_flash_kb,
            "ram_kb": self.max_ram_kb,
            "macs": self.max_macs,
            "energy_uj": self.max_energy_uj,
        }
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _says_something(self) -> Budget:
        if self.profile is None and not self.limits:
            msg = "a budget needs a profile or a limit, such as max_flash_kb"
            raise ValueError(msg)
        if self.profile is None and {"latency_us", "energy_uj"} & set(self.limits):
            msg = "a limit of time or energy needs a hardware profile that predicts it: add one"
            raise ValueError(msg)
        return self


class BlockWorth(Strict):
    """Variance of the expert's decision that an agent's hidden units explain from one block."""

    block: str
    worth: float = Field(
        description="variance of the expert's decision, Shapley share; below 0 for noise"
    )


class Worth(Strict):
    """Variance of the expert's decision that an agent's visible blocks explain in the dataset."""

    agent: str
    total: float = Field(
        ge=0, description="variance of the expert's decision that only hidden units explain"
    )
    linear: float = Field(ge=0, description="variance that a linear map explains")
    decision: float = Field(ge=0, description="variance of the decision")
    blocks: tuple[BlockWorth, ...]


class BudgetFigure(Strict):
    """One predicted quantity of a network, with its source."""

    value: float = Field(ge=0)
    kind: Literal["derived", "modelled"] = Field(
        description="derived: from widths, exactly; modelled: from figures of a hardware profile"
    )
    source: str


class AgentBudget(Strict):
    """One agent's width and the predicted needs of its network."""

    agent: str
    hidden: int = Field(gt=0, description="of its widest layer")
    layers: LayerWidths | None = Field(default=None, description="where unit gates chose them")
    widest: int = Field(gt=0, description="that was allowed")
    worth: Worth | None = Field(default=None, description="where widths follow from it")
    figures: dict[Quantity, BudgetFigure]


class Allocation(Strict):
    """Widths that meet a budget, with the figures that were used.

    With unit gates every seed has a team of its own; the figures are those of the team with the
    most multiply-accumulates.
    """

    budget: Budget
    engine: Literal["c"] = "c"
    limits: dict[Quantity, float] = Field(description="stated ones, and those of the device")
    agents: tuple[AgentBudget, ...]
    team: dict[Quantity, float] = Field(description="sum over agents")
