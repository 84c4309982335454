"""The recipe of a recording: all settings that decide its result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
)

from kd_offline.schemas.bounds import (
    Batch,
    Episodes,
    Threads,
)
from kd_offline.schemas.dataset import NoiseLevel
from kd_offline.schemas.environment import Scalar, Strict

DEFAULT_NOISE = (
    NoiseLevel(level=0.0, share=0.5),
    NoiseLevel(level=0.1, share=0.125),
    NoiseLevel(level=0.25, share=0.125),
    NoiseLevel(level=0.5, share=0.125),
    NoiseLevel(level=1.0, share=0.125),
)
"""Half of the episodes clean, the others disturbed at four levels."""

_PLACE = re.compile(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,6})")


def one_or_more(given: Any) -> Any:
    """Return one text or path as the only one of several."""
    return (str(given),) if isinstance(given, str | Path) else given


class RecordRecipe(Strict):
    """Everything that decides what ``kd-offline record`` makes."""

    environment: str = Field(default="mpe/simple_spread_v3", description="name of the environment")
    environment_kwargs: dict[str, Scalar] = Field(
        default_factory=dict, description="settings of the environment"
    )
    expert: Annotated[
        tuple[str, ...],
        BeforeValidator(one_or_more, json_schema_input_type=str | tuple[str, ...]),
    ] = Field(
        default=("bundled",),
        min_length=1,
        description="expert that plays: bundled, bundled:large, bundled:mlp, bundled:masked, the "
        "folder of a trained expert, or an expert of another library: epymarl:DIR, pymarl2:DIR, "
        "on-policy:DIR, benchmarl:FILE, jaxmarl:FILE, onnx:FILE, python:package.module:factory; "
        "several experts play an equal number of episodes each",
    )
    expert_recipe: str | None = Field(
        default=None,
        description="TOML file with the input recipe of an expert of another library; None: an "
        "expert.toml beside the expert, and settings that are detected from its files",
    )
    opponents: tuple[str, ...] = Field(
        default=(),
        description="experts that may be loaded if the file of an expert names them as its "
        "opponents",
    )
    episodes: Episodes = Field(
        default=30_000,
        description="number of episodes; a longer recording begins with the episodes of a shorter "
        "one",
    )
    seed: int = Field(default=0, ge=0, description="seed of the episodes")
    shard: str | None = Field(
        default=None,
        description="record only this share of the episodes, NUMBER/COUNT counted from 1, such as "
        "3/64; merge combines all shares",
    )
    noise_mixture: tuple[NoiseLevel, ...] = Field(
        default=DEFAULT_NOISE,
        description="behaviour noise: default, none, or LEVEL:SHARE,LEVEL:SHARE",
    )
    partner: str | None = Field(
        default="bundled",
        description="students that play some of the agents: a run folder, bundled (if the task has "
        "bundled students) or none",
    )
    partner_share: float = Field(
        default=0.5, ge=0, le=1, description="share of the episodes in which the partner plays"
    )
    partner_agents: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="probability that the partner plays an agent in these episodes; it plays at "
        "least one",
    )
    masks: tuple[str, ...] | None = Field(
        default=None, description="student masks to store, by name or file; None: all that exist"
    )
    batch: Batch | None = Field(
        default=None,
        description="episodes that each thread plays at once; None: as many as have 25,000 steps, "
        "up to 1,000",
    )
    embedding_dtype: Literal["float16", "float32"] = Field(
        default="float16", description="type of stored embeddings"
    )
    full_observations: bool = Field(
        default=False,
        description="store full observations: what agents would see if nothing were hidden; always "
        "stored if the expert acts by them",
    )
    name: str | None = Field(
        default=None,
        description="name of the dataset; None: made from the names of environment and expert",
    )
    description: str = Field(default="", description="description of the dataset")
    licence: str = Field(default="", description="licence, such as CC-BY-4.0")
    citation: str = Field(default="", description="how to cite the dataset")
    threads: Threads = Field(
        default=2, description="batches that are played in parallel; does not change the dataset"
    )

    @field_validator("noise_mixture", mode="before")
    @classmethod
    def _noise_may_be_text(cls, given: Any) -> Any:
        return noise_levels(given) if given is None or isinstance(given, str) else given

    @field_validator("expert")
    @classmethod
    def _experts_differ(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(given)) < len(given):
            msg = "names an expert twice: give each of them once"
            raise ValueError(msg)
        return given

    @field_validator("shard")
    @classmethod
    def _shard_is_a_place(cls, given: str | None) -> str | None:
        if given is not None:
            shard_place(given)
        return given


def shard_place(text: str) -> tuple[int, int]:
    """Return number and count of a shard's place such as ``3/64``.

    Raises
    ------
    ValueError
        It is not NUMBER/COUNT with a number from 1 to the count.
    """
    match = _PLACE.fullmatch(text)
    number, count = map(int, match.groups()) if match else (1, 0)
    if number > count:
        msg = "is not NUMBER/COUNT with a number from 1 to the count, such as 3/64"
        raise ValueError(msg)
    return number, count


def noise_levels(text: str | None) -> tuple[NoiseLevel, ...]:
    """Return the noise that a text states: ``default``, ``none``, or ``0:0.5,0.25:0.5``.

    Raises
    ------
    ValueError
        It is none of these, a number is not within [0, 1], or the shares do not add up to 1.
    """
    if text in (None, "none", "default"):
        return DEFAULT_NOISE if text == "default" else ()
    try:
        pairs = [part.split(":") for part in str(text).split(",")]
        mixture = tuple(NoiseLevel(level=float(a), share=float(b)) for a, b in pairs)
    except ValueError:
        mixture = ()
    if abs(sum(entry.share for entry in mixture) - 1) > 1e-6:
        msg = (
            "is not a mixture: write default, none, or LEVEL:SHARE,LEVEL:SHARE with levels from 0 "
            "to 1 and shares that add up to 1, such as 0:0.5,0.25:0.5"
        )
        raise ValueError(msg)
    return mixture
