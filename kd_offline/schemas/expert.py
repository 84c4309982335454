"""What an expert is and how it was trained: the files beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kd_offline.schemas.document import Document, LinesRecord
from kd_offline.schemas.environment import EnvironmentSpec, Scalar, Strict
from kd_offline.schemas.layers import Widths

Algorithm = Literal["mappo", "ippo", "vdn", "qmix"]
VALUE_BASED = frozenset({"vdn", "qmix"})
_POLICY_ONLY = ("epochs", "minibatches", "entropy", "clip", "gae_lambda", "huber_delta")


class ExpertArchitecture(Strict):
    """Networks of an expert.

    Every network is ``Linear - ReLU - LayerNorm`` for each trunk width, then an optional GRU, then
    a linear head. With ``share`` the agents of a side that have equal widths use one network and a
    one-hot agent id is appended to the observation. ``widths`` gives each agent a network of its
    own instead: as deep as ``trunk``, of one width, or of a width for each layer. ``motion`` and
    ``last_action`` append the change of every feature since the last step and the agent's own last
    action, as students under a mask may have them. The critic sees the state once per side
    (``central``) or each agent's own observation (``local``); value-based experts have a mixer and
    no critic (``none``).
    """

    trunk: tuple[int, ...] = (128,)
    gru: int | None = 128
    share: bool = True
    widths: tuple[Widths, ...] | None = None
    motion: bool = False
    last_action: bool = False
    critic: Literal["central", "local", "none"] = "central"
    critic_trunk: tuple[int, ...] = (64, 64)
    critic_gru: int | None = 64

    @field_validator("gru", "critic_gru", mode="before")
    @classmethod
    def _zero_is_none(cls, value: Any) -> Any:
        # TOML has no null: a recipe file says gru = 0.
        return None if value == 0 else value


class QLearning(Strict):
    """What VDN and QMIX need beyond the settings that all algorithms share.

    After every batch of played episodes, ``updates_per_batch`` gradient steps are taken on
    ``batch_episodes`` episodes each, drawn from the last ``buffer_episodes``.
    """

    td_lambda: float = Field(default=0.6, ge=0, le=1)
    double: bool = Field(default=True, description="the learning network chooses the next action")
    buffer_episodes: int = Field(default=5000, gt=0)
    batch_episodes: int = Field(default=64, gt=0)
    updates_per_batch: int = Field(default=4, gt=0)
    target_every: int = Field(default=8, gt=0, description="gradient steps between two targets")
    epsilon_start: float = Field(default=1.0, ge=0, le=1)
    epsilon_end: float = Field(default=0.05, ge=0, le=1)
    epsilon_frames: int = Field(default=60_000, gt=0, description="joint steps of linear decay")
    mixer_embedding: int = Field(default=32, gt=0)
    mixer_hidden: int = Field(default=64, gt=0)


class Kickstart(Strict):
    """A teacher that a policy follows at first (Schmitt et al., 2018, arXiv 1803.03835).

    To the loss of mappo and ippo is added ``weight`` times the KL divergence of the policy from the
    teacher, averaged over what the policy itself plays. The weight falls linearly to zero.
    """

    teacher: str = Field(description="an expert, as kd-offline record --expert takes it")
    weight: float = Field(default=1.0, gt=0, description="at first")
    frames: int = Field(default=1_000_000, gt=0, description="joint steps until it is zero")


class Start(Strict):
    """Students of a run that a policy starts from, in place of random weights.

    ``kd-offline train --from RUN`` writes it. The critic starts from random weights: students have
    none. Networks, mask and environment of the recipe are those of the students.
    """

    run: str = Field(description="folder of the run")
    seed: int = Field(ge=0, description="which of its teams")
    digest: str = Field(description="sha256 of that team's weights, as run.json states it")
    critic_frames: int = Field(
        default=100_000, ge=0, description="joint steps at first in which only the critic learns"
    )


# What a value-based recipe has where it says nothing (METHODS of PyMARL2: Hu et al., 2021).
_VALUE_DEFAULTS: dict[str, Any] = {
    "episodes_per_batch": 32,
    "learning_rate": 1e-3,
    "bootstrap_on_truncation": True,
    "q_learning": {},
}
_VALUE_ARCHITECTURE: dict[str, Any] = {
    "trunk": (64,),
    "gru": 64,
    "last_action": True,
    "critic": "none",
}


class TrainRecipe(Strict):
    """Everything that decides what ``kd-offline train`` produces.

    The settings of clipped policy updates (epochs, minibatches, entropy, clip, gae_lambda,
    huber_delta), ``kickstart`` and ``start`` are those of mappo and ippo, ``q_learning`` is that of
    vdn and qmix, which have defaults of their own for some others.
    """

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
    q_learning: QLearning | None = Field(default=None, description="of vdn and qmix only")
    kickstart: Kickstart | None = Field(default=None, description="of mappo and ippo only")
    start: Start | None = Field(default=None, description="of mappo and ippo only")
    seed: int = Field(default=0, ge=0)

    @property
    def value_based(self) -> bool:
        """Whether agents learn what actions are worth, rather than a policy."""
        return self.algorithm in VALUE_BASED

    @model_validator(mode="before")
    @classmethod
    def _value_defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("algorithm") not in VALUE_BASED:
            return given
        out = {**_VALUE_DEFAULTS, **given}
        networks = out.get("architecture", {})
        if isinstance(networks, ExpertArchitecture):
            networks = networks.model_dump(exclude_unset=True)
        if isinstance(networks, Mapping):
            out["architecture"] = {**_VALUE_ARCHITECTURE, **networks}
        return out

    @model_validator(mode="after")
    def _settings_of_the_algorithm(self) -> TrainRecipe:
        if (self.q_learning is not None) != self.value_based:
            msg = f"q_learning belongs to vdn and qmix, the algorithm is {self.algorithm}"
            raise ValueError(msg)
        if (self.architecture.critic == "none") != self.value_based:
            msg = "vdn and qmix have no critic (none), mappo and ippo have one (central or local)"
            raise ValueError(msg)
        if self.start is not None and self.architecture.widths is None:
            msg = "start needs architecture.widths: students have a network each"
            raise ValueError(msg)
        if not self.value_based:
            return self
        fields = type(self).model_fields
        odd = [n for n in _POLICY_ONLY if getattr(self, n) != fields[n].default]
        odd += [
            n for n in ("learn", "opponents", "kickstart", "start") if getattr(self, n) is not None
        ]
        if odd:
            msg = f"{odd[0]} means nothing to {self.algorithm}: leave it out"
            raise ValueError(msg)
        return self


class TrainProgress(Strict):
    """One line of the learning curve, an average over the episodes of one batch.

    ``entropy`` and the four after it are of mappo and ippo; ``epsilon``, ``td_loss``, ``q_tot`` and
    ``target`` are of vdn and qmix, the last three in raw reward units.
    """

    iteration: int
    frames: int
    seconds: float
    returns: dict[str, float] = Field(description="sum over the agents of a side, sampled play")
    won: float | None = Field(default=None, description="share of episodes, where there are wins")
    entropy: float | None = None
    approximate_kl: float | None = None
    clip_fraction: float | None = None
    value_loss: float | None = None
    explained_variance: float | None = None
    teacher_kl: float | None = Field(
        default=None, description="KL(teacher || policy) in nats, while there is a teacher"
    )
    epsilon: float | None = None
    td_loss: float | None = Field(default=None, description="root of the mean squared TD error")
    q_tot: float | None = None
    target: float | None = None


class GreedyScore(Strict):
    """Greedy play of the finished expert, on seeds that training did not use."""

    episodes: int
    seed: int
    returns: dict[str, float] = Field(description="mean sum over the agents of a side")
    standard_errors: dict[str, float]
    won: float | None = Field(default=None, description="share of episodes, where there are wins")
    opponents: str = "itself"


class ExpertCard(Document):
    """``expert.json``: what the weights beside it are."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    format_version: tuple[int, int] = (1, 2)
    environment: EnvironmentSpec
    recipe: TrainRecipe
    agents: tuple[str, ...]
    parameters: dict[str, int] = Field(description="actor, and critic or mixer, every network once")
    mask: tuple[tuple[bool, ...], ...] | None = Field(
        default=None, description="[N, O], what the actor may see; None: everything"
    )
    frames: int
    seconds: float
    threads: int
    finished: bool
    greedy: GreedyScore | None = None
    software: dict[str, str] = Field(default_factory=dict)
    weights: str | None = Field(
        default=None, description="sha256 of the file weights.safetensors; from 1.1 on"
    )
    curve: LinesRecord | None = Field(default=None, description="of curve.jsonl")

    @model_validator(mode="after")
    def _consistent(self) -> ExpertCard:
        spec, recipe = self.environment, self.recipe
        if (self.agents, recipe.environment) != (spec.agents, spec.id):
            msg = "agents and recipe.environment must be those of environment"
            raise ValueError(msg)
        for name, value in recipe.environment_kwargs.items():
            if type(value) is type(spec.kwargs.get(name)) and value != spec.kwargs[name]:
                msg = f"recipe.environment_kwargs and environment.kwargs differ in {name}"
                raise ValueError(msg)
        rows = self.mask
        if rows is not None and [len(row) for row in rows] != [spec.obs_width] * spec.n_agents:
            msg = f"mask must have the shape {[spec.n_agents, spec.obs_width]}"
            raise ValueError(msg)
        return self
