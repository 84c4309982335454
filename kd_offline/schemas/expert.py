"""Recipe and results of an expert's training, as far as they are common to all algorithms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from kd_offline.schemas.bounds import Accelerator, Batch, Frames, Layers, Width
from kd_offline.schemas.environment import Scalar, Strict
from kd_offline.schemas.layers import Widths, widest

BLOCKS: dict[str, tuple[str, ...]] = {
    "local": ("none", "fusion"),
    "full": ("none",),
    "state": ("none",),
    "personalised": ("fusion", "hypernetwork"),
}
"""View -> the blocks that it can have."""

_LATER = ("view", "block", "block_width", "block_hidden", "normalise_state")


class ExpertArchitecture(Strict):
    """Networks of an expert.

    Every network is ``Linear - ReLU - LayerNorm`` for each trunk width, then an optional GRU, then
    a linear head. With ``share`` the agents of a side that have equal widths use one network and a
    one-hot agent id is appended to the observation. ``widths`` gives each agent a network of its
    own instead: as deep as ``trunk``, of one width, or of a width for each layer. ``motion`` and
    ``last_action`` append the change of every feature since the last step and the agent's own last
    action, as students under a mask may have them. The critic sees the state once per side
    (``central``) or what each agent's actor sees (``local``); value-based experts have a mixer and
    no critic (``none``).

    Actors see by ``view`` what :mod:`kd_offline.experts.views` lists. With a ``block`` they read a
    source through weights that their local input generates, see :mod:`kd_offline.networks.fusion`:
    the state, or in the view ``local`` their own observation.
    """

    trunk: Layers = (128,)
    gru: Width | None = 128
    share: bool = Field(
        default=True,
        description="one network for all agents of a side that have equal widths",
    )
    widths: tuple[Widths, ...] | None = None
    motion: bool = False
    last_action: bool = False
    critic: Literal["central", "local", "none"] = "central"
    critic_trunk: Layers = (64, 64)
    critic_gru: Width | None = 64
    view: Literal["local", "full", "state", "personalised"] = Field(
        default="local",
        description="what actors see: their own observation (local), their full observation "
        "(full), the state (state), or their observation and the state through a block "
        "(personalised)",
    )
    block: Literal["none", "fusion", "hypernetwork"] = Field(
        default="none", description="how the state is read: as in DDN or as in PTDE"
    )
    block_width: Width = Field(default=32, description="width of the block's output")
    block_hidden: Width = Field(
        default=32, description="width of the layer that generates the weights of the block"
    )
    normalise_state: bool = Field(
        default=True, description="whether the state is normalised before the block"
    )

    @model_validator(mode="before")
    @classmethod
    def _personalised_has_a_block(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("view") == "personalised":
            return {"block": "fusion"} | dict(given)
        return given

    @model_validator(mode="after")
    def _view_and_block_agree(self) -> ExpertArchitecture:
        allowed = BLOCKS[self.view]
        if self.block not in allowed:
            msg = (
                f"the view {self.view} has the block {' or '.join(allowed)}, not {self.block}: "
                "choose one of these, or another view"
            )
            raise ValueError(msg)
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Digests of documents that earlier versions could write stay the same.
        document: dict[str, Any] = handler(self)
        for name in _LATER:
            ours, declared = ExpertArchitecture.model_fields[name], type(self).model_fields[name]
            if document.get(name, ours.default) == ours.default == declared.default:
                document.pop(name, None)
        return document

    @field_validator("gru", "critic_gru", mode="before")
    @classmethod
    def _zero_is_none(cls, value: Any) -> Any:
        # TOML has no null: a recipe file says gru = 0.
        return None if value == 0 else value

    @property
    def embedding(self) -> str:
        """Which layer of an actor is its embedding, in words."""
        return "GRU state after the step" if self.gru else "last hidden layer"


class Start(Strict):
    """Students of a run that a policy starts from, in place of random weights.

    A training that starts from a run writes it. The critic starts from random weights: students
    have none. Networks, mask and environment of the recipe are those of the students.
    """

    run: str = Field(description="folder of the run")
    seed: int = Field(ge=0, description="which of its teams")
    digest: str = Field(description="sha256 of that team's weights, as run.json states it")
    critic_frames: int = Field(
        default=100_000,
        ge=0,
        le=10**12,
        description="joint steps at the beginning in which only the critic learns",
    )


class TrainRecipe(Strict):
    """Everything that decides what ``kd-offline train`` produces.

    These settings are those of all algorithms. Each has a subclass that adds its own and may have
    other defaults, see :attr:`kd_offline.experts.algorithms.base.Algorithm.recipe`;
    :func:`kd_offline.experts.recipe.train_recipe` makes recipes.
    """

    environment: str
    environment_kwargs: dict[str, Scalar] = Field(default_factory=dict)
    algorithm: str = "mappo"
    architecture: ExpertArchitecture = ExpertArchitecture()
    mask: str | None = Field(
        default=None,
        description="mask that says which features actors see; None: they see all features",
    )
    learn: tuple[str, ...] | None = Field(
        default=None, description="sides that learn; opponents play the others; None: all sides"
    )
    opponents: str | None = Field(
        default=None, description="expert that plays the other sides: bundled or a folder"
    )
    frames: Frames = Field(default=5_000_000, description="number of joint steps")
    episodes_per_batch: Batch = Field(
        default=256, description="episodes that are played between two updates"
    )
    learning_rate: float = Field(
        default=1.5e-3, gt=0, description="initial learning rate; it falls linearly to zero"
    )
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount factor")
    max_grad_norm: float = Field(
        default=10.0, gt=0, description="norm at which gradients are clipped"
    )
    bootstrap_on_truncation: bool = Field(
        default=False,
        description="whether returns continue with the value of the last view after a time limit",
    )
    start: Start | None = Field(
        default=None, description="students that the actors start from; None: random weights"
    )
    seed: int = Field(default=0, ge=0, description="seed of all random numbers")
    accelerator: Accelerator = Field(
        default="cpu",
        exclude_if=lambda name: name == "cpu",
        description="device that networks are trained on; auto: a GPU if there is one",
    )

    @field_validator("architecture", mode="before")
    @classmethod
    def _as_settings(cls, value: Any) -> Any:
        # An algorithm has an architecture with defaults of its own for what is not said.
        return value.model_dump(exclude_unset=True) if isinstance(value, Strict) else value

    @model_validator(mode="after")
    def _starts_from_networks_of_their_own(self) -> TrainRecipe:
        if self.start is not None and self.architecture.widths is None:
            msg = "start needs architecture.widths: students have a network each"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _masks_hide_from_actors_that_see_nothing_else(self) -> TrainRecipe:
        nets = self.architecture
        if self.mask is not None and nets.view != "local":
            msg = (
                f"mask {self.mask!r} hides what actors of the view {nets.view} see elsewhere: "
                "leave the mask out, or choose the view local"
            )
            raise ValueError(msg)
        if self.start is not None and (nets.view, nets.block) != ("local", "none"):
            msg = (
                "students see their own observations and have no block, so what starts from them "
                "does too: leave out architecture.view and architecture.block"
            )
            raise ValueError(msg)
        return self

    def widths(self) -> tuple[int, ...]:
        """Return every width of a network that the recipe states."""
        nets = self.architecture
        memories = [width for width in (nets.gru, nets.critic_gru) if width is not None]
        block = () if nets.block == "none" else (nets.block_width, nets.block_hidden)
        widths = (*nets.trunk, *nets.critic_trunk, *map(widest, nets.widths or ()), *memories)
        return (*widths, *block)

    def experts(self) -> dict[str, str]:
        """Return the experts that the recipe names, by the path of the setting."""
        return {} if self.opponents is None else {"opponents": self.opponents}


class TrainProgress(Strict):
    """One line of the learning curve, an average over the episodes of one batch.

    ``figures`` are those of the algorithm, see
    :attr:`kd_offline.experts.algorithms.base.Algorithm.figures`. In a file they stand beside the
    other fields, by their names.
    """

    model_config = ConfigDict(
        json_schema_extra={"additionalProperties": {"type": "number"}},
    )

    iteration: int
    frames: int
    seconds: float
    returns: dict[str, float] = Field(description="sum over the agents of a side, sampled play")
    won: float | None = Field(default=None, description="share of episodes, where there are wins")
    figures: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _collect_figures(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        known = {name: value for name, value in given.items() if name in cls.model_fields}
        others = {name: x for name, x in given.items() if name not in known and x is not None}
        return known | {"figures": {**known.get("figures", {}), **others}} if others else known

    @model_serializer(mode="wrap")
    def _spread_figures(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        line: dict[str, Any] = handler(self)
        figures: dict[str, Any] = line.pop("figures", {})
        return line | figures


class GreedyScore(Strict):
    """Greedy play of the finished expert, on seeds that training did not use."""

    episodes: int
    seed: int
    returns: dict[str, float] = Field(description="mean sum over the agents of a side")
    standard_errors: dict[str, float]
    won: float | None = Field(default=None, description="share of episodes, where there are wins")
    opponents: str = "itself"
