"""What an expert is and how it was trained: the files beside its weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from kd_offline.schemas.environment import EnvironmentSpec, Scalar, Strict

Algorithm = Literal["mappo", "ippo"]


class ExpertArchitecture(Strict):
    """Networks of an expert.

    Every network is ``Linear - ReLU - LayerNorm`` for each trunk width, then an optional GRU, then
    a linear head. With ``share`` the agents of a side that have equal widths use one network and a
    one-hot agent id is appended to the observation. ``widths`` gives each agent a network of its
    own width instead. ``motion`` and ``last_action`` append the change of every feature since the
    last step and the agent's own last action, as students under a mask may have them. The critic
    sees the state once per side (``central``) or each agent's own
    observation (``local``).
    """

    trunk: tuple[int, ...] = (128,)
    gru: int | None = 128
    share: bool = True
    widths: tuple[int, ...] | None = None
    motion: bool = False
    last_action: bool = False
    critic: Literal["central", "local"] = "central"
    critic_trunk: tuple[int, ...] = (64, 64)
    critic_gru: int | None = 64

    @field_validator("gru", "critic_gru", mode="before")
    @classmethod
    def _zero_is_none(cls, value: Any) -> Any:
        # TOML has no null: a recipe file says gru = 0.
        return None if value == 0 else value


class TrainRecipe(Strict):
    """Everything that decides what ``kd-offline train`` produces."""

    environment: str
    environment_kwargs: dict[str, Scalar] = Field(default_factory=dict)
    algorithm: Algorithm = "mappo"
    architecture: ExpertArchitecture = ExpertArchitecture()
    mask: str | None = None
    learn: tuple[str, ...] | None = Field(
        default=None, description="sides that learn; None: all. The others are played by opponents"
    )
    opponents: str | None = None
    frames: int = Field(default=5_000_000, gt=0, description="joint steps in total")
    episodes_per_batch: int = Field(default=256, gt=0)
    epochs: int = Field(default=3, gt=0)
    minibatches: int = Field(default=6, gt=0)
    learning_rate: float = Field(default=1.5e-3, gt=0)
    entropy: float = Field(default=0.003, ge=0)
    clip: float = Field(default=0.2, gt=0)
    gamma: float = Field(default=0.99, ge=0, le=1)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    huber_delta: float = Field(default=10.0, gt=0)
    max_grad_norm: float = Field(default=10.0, gt=0)
    bootstrap_on_truncation: bool = Field(
        default=False, description="whether the future after the time limit has a value"
    )
    seed: int = Field(default=0, ge=0)


class TrainProgress(Strict):
    """One line of the learning curve, an average over the episodes of one batch."""

    iteration: int
    frames: int
    seconds: float
    returns: dict[str, float] = Field(description="sum over the agents of a side, sampled play")
    entropy: float
    approximate_kl: float
    clip_fraction: float
    value_loss: float
    explained_variance: float


class GreedyScore(Strict):
    """Greedy play of the finished expert, on seeds that training did not use."""

    episodes: int
    seed: int
    returns: dict[str, float] = Field(description="mean sum over the agents of a side")
    standard_errors: dict[str, float]
    opponents: str = "itself"


class ExpertCard(Strict):
    """``expert.json``: what the weights beside it are."""

    format_version: tuple[int, int] = (1, 0)
    environment: EnvironmentSpec
    recipe: TrainRecipe
    agents: tuple[str, ...]
    parameters: dict[str, int] = Field(description="actor and critic, every network once")
    mask: tuple[tuple[bool, ...], ...] | None = Field(
        default=None, description="[N, O], what the actor may see; None: everything"
    )
    frames: int
    seconds: float
    threads: int
    finished: bool
    greedy: GreedyScore | None = None
    software: dict[str, str] = Field(default_factory=dict)
