"""``export.json``: the content of an export, its inputs and outputs, and its parity check."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from kd_offline.schemas.bounds import (
    MAX_AGENTS,
    MAX_TEAM_NUMBERS,
    Layers,
    Observation,
    Width,
)
from kd_offline.schemas.dataset import Digest, FilePath
from kd_offline.schemas.document import Document
from kd_offline.schemas.environment import MAX_RANDOM_K, Strict

EXPORT_FORMAT = (1, 1)

Count = Annotated[int, Field(ge=0)]
Memory = Annotated[int, Field(ge=0, le=1 << 22)]  # all that an agent sees and has done, and a GRU
Range = tuple[Memory, Memory]
Format = Literal["onnx", "c", "torch"]
Precision = Literal["fp32", "int8"]
# It becomes the name of files and of functions, so nothing but a plain word will do.
Symbol = Annotated[str, StringConstraints(pattern=r"^kd_[0-9a-z_]*$", max_length=200)]
RESET = (
    "at the start of every episode all numbers of the memory are zero; where another action than "
    "the returned one is executed, its one-hot vector replaces last_action in the memory"
)
REFUSAL = (
    "a step is refused where a feature, less its mean and in deviations, or a number of the memory "
    "is NaN, infinite or beyond 1e18 in magnitude: every logit is then NaN, the action is the "
    "first legal one, and the memory stays as it was, but for last_action, which is that action; "
    "the next step with usable numbers goes on from there, and a memory that is itself unusable is "
    "refused until it is reset"
)
WAITING = "where no action is legal the action is 0, and logits and memory are as at any other step"


class AgentContract(Strict):
    """Inputs and outputs of one agent's step; ranges are half-open.

    Steps that are refused, and steps without a legal action, are those that ``refusal`` and
    ``waiting`` of the manifest describe; every engine treats them alike, to the same bits.

    Observations hold what the agent sees and nothing else: the features that ``seen`` lists, in
    that order, as the environment says them. Under a mask that is drawn for each episode they are
    all features, followed by one number for each: 1 seen, 0 hidden.
    """

    agent: str
    symbol: Symbol = Field(description="prefix of names in C, and name of the files")
    obs_width: Observation = Field(description="of the whole observation, of which this is a part")
    seen: tuple[Observation, ...] = Field(description="indices into the whole observation")
    blocks: dict[str, tuple[Observation, ...]] = Field(
        description="the same indices by observation block; a block that is hidden is absent"
    )
    drawn: bool = Field(description="the mask differs by episode, and its bits are given too")
    mask_input: bool = Field(description="the network takes those bits as features")
    inputs: Memory = Field(description="width of the observation that the step takes")
    actions: tuple[str, ...]
    memory: dict[str, Range] = Field(description="parts of the memory vector")
    memory_width: Memory = Field(gt=0)
    widths: Layers = Field(description="of the layers before the memory or the head")
    gru: Width | None = Field(description="width of the recurrent memory")
    parameters: Count = Field(description="numbers stored")
    parameter_bytes: Count
    macs: Count = Field(description="multiply-accumulates of a step, matrices only")
    zeros: Count = Field(
        default=0,
        description="weights of sparse matrices that count nowhere: C does without them, all other "
        "formats hold and multiply them; absent: 0",
        exclude_if=lambda zeros: zeros == 0,
    )

    @model_validator(mode="after")
    def _consistent(self) -> AgentContract:
        if any(feature >= self.obs_width for feature in self.seen):
            msg = f"seen must be indices into {self.obs_width} features"
            raise ValueError(msg)
        parts = {"last_action": len(self.actions), "gru": self.gru}
        for name, (start, stop) in self.memory.items():
            if not start <= stop <= self.memory_width or stop - start != parts.get(
                name, stop - start
            ):
                msg = f"the part {name!r} of the memory is not as wide as the network's"
                raise ValueError(msg)
        return self


class Comparison(Strict):
    """Differences of two policies on the same recorded steps, each with its own memory."""

    decisions: Count = Field(
        description="of agents that were there and had two or more legal actions, over all steps"
    )
    agreement: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="share of decisions with the same action; null: there was nothing to decide",
    )
    ties: Count = Field(
        default=0,
        description="decisions that differ between actions whose logits are equal within rounding: "
        "twice the tolerance",
    )
    logit_error: float = Field(ge=0, description="largest |a - b| / max(1, |b|) of all logits")
    mean_logit_error: float = Field(ge=0)


class Gate(Strict):
    """The parity check of an export, run before it was written."""

    dataset: Digest = Field(description="content id of the dataset whose episodes were replayed")
    part: str | None = Field(
        default=None,
        description="of the dataset, that they are in: train where nothing is held out; null: not "
        "stated, as before version 1.1",
    )
    episodes: PositiveInt = Field(description="whole episodes of that part")
    steps: PositiveInt
    tolerance: float = Field(
        gt=0, description="of logit errors; actions must be equal, but for ties"
    )
    engines: dict[str, Comparison] = Field(
        description="each engine against the student, or at int8 against the int8 reference"
    )
    least_agreement: float = Field(ge=0, le=1, description="that precision was allowed to cost")
    precision: Comparison = Field(description="the reference of this precision against the student")


class Core(Strict):
    """Flash, RAM and instructions of one agent on a microcontroller core, linked and emulated."""

    symbol: str = Field(description="of the agent, as its contract says it")
    core: str
    flash_bytes: PositiveInt = Field(description="step, weights, mathematics and vector table")
    ram_bytes: PositiveInt = Field(description="static; the stack is not in it")
    instructions_per_step: float = Field(gt=0, description="instruction count, not a latency")
    flags: str = Field(description="of the compiler")


class FileFact(Strict):
    """One file of an export."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: Count


class ExportManifest(Document):
    """The content of ``export.json``."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    kind: Literal["kd-offline export"] = "kd-offline export"
    version: tuple[int, int] = EXPORT_FORMAT
    formats: tuple[Format, ...] = Field(min_length=1)
    precision: Precision
    environment: str
    mask: str
    random_k: int | None = Field(
        default=None,
        ge=1,
        le=MAX_RANDOM_K,
        description="features that a drawn mask shows; null: 4/9 to 5/9 of them",
    )
    method: str
    seed: int = Field(description="distillation seed of the team")
    students: Digest = Field(description="of the team's weights, as its run states it")
    dataset: Digest = Field(description="content id of the dataset that it learned from")
    reset: str = RESET
    refusal: str = Field(
        default="",
        description="what a step does with numbers that cannot be computed with; empty: not "
        "defined, as before version 1.1",
    )
    waiting: str = Field(default="", description="what a step does where no action is legal")
    agents: tuple[AgentContract, ...] = Field(min_length=1, max_length=MAX_AGENTS)
    gate: Gate
    microcontrollers: tuple[Core, ...] = ()
    files: dict[FilePath, FileFact] = Field(description="every file but this one")
    made_with: str = Field(description="version of kd-offline")

    @model_validator(mode="after")
    def _a_team_sees_no_more_than_any(self) -> ExportManifest:
        if len(self.agents) * max(agent.obs_width for agent in self.agents) > MAX_TEAM_NUMBERS:
            msg = f"agents may see {MAX_TEAM_NUMBERS:,} numbers together"
            raise ValueError(msg)
        return self
