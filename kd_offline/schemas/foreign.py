"""Inputs and value units of an expert of another library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kd_offline.schemas.environment import Strict

Library = Literal["epymarl", "pymarl2", "on-policy", "benchmarl", "jaxmarl", "python", "onnx"]
ActorPart = Literal["obs", "last_action", "agent_id"]
CriticPart = Literal["state", "all_obs", "obs", "last_actions", "agent_id"]
Activation = Literal["relu", "tanh", "elu", "leaky_relu", "selu", "sigmoid", "gelu", "silu"]


class InputRecipe(Strict):
    """Inputs, outputs and value units that a checkpoint's tensors do not determine.

    Every field can be given by hand. ``inputs`` and ``critic_inputs`` are concatenated in their
    order. Ids and actions are one-hot. There is no last action in the first step of an episode, so
    it is all zero then.
    """

    library: Library
    algorithm: str = Field(default="unknown", min_length=1, description="such as mappo or qmix")
    output: Literal["logits", "q_values"] = "logits"
    inputs: tuple[ActorPart, ...] = Field(default=("obs",), min_length=1)
    frames: int = Field(
        default=1, ge=1, le=64, description="observations stacked, zeros before the start"
    )
    frame_order: Literal["oldest_first", "newest_first"] = "oldest_first"
    hidden_reset: Literal["episode", "death"] = Field(
        default="episode",
        description="memory is zeroed before the first step; death: also while an agent is dead",
    )
    mask_constant: float | None = Field(
        default=None,
        description="what its library put for illegal logits, None: minus infinity; for the "
        "record, as outputs are recorded unmasked and illegal actions are never taken",
    )
    activation: Activation = "relu"
    groups: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="group of networks -> agents, where there are several"
    )
    critic_inputs: tuple[CriticPart, ...] | None = Field(
        default=None, description="None: no critic is used"
    )
    value_units: Literal["raw", "normalised"] = Field(
        default="raw",
        description="of the critic's output after the normaliser that was found; normalised: "
        "recording calibrates it against returns",
    )
    gamma: float = Field(default=0.99, ge=0, le=1)
    bootstrap_on_truncation: bool = Field(
        default=False, description="whether the critic gives a value to the time after a time limit"
    )
    epsilon: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="experts with Q-values act greedily except with this probability, when sampled",
    )


class ValueCalibration(Strict):
    """``value = scale * output + offset``, least squares against the returns of a trial."""

    scale: float = Field(ge=0)
    offset: float
    r2: float = Field(
        ge=0, le=1, description="share of the returns' variance that the values explain"
    )
    episodes: int = Field(ge=1)
    steps: int = Field(ge=1)
