"""Bounds of settings that determine memory or time, for the models of recipes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

MAX_AGENTS = 4096
MAX_TEAM_NUMBERS = 1 << 23
"""Most numbers that the agents of a team are given or choose from in one step: N * O and N * A."""
LONGEST_EPISODE = 1_000_000

WIDEST = 1 << 14

Width = Annotated[int, Field(gt=0, le=WIDEST)]
"""Units of a hidden layer."""
Layers = Annotated[tuple[Width, ...], Field(max_length=64)]
Depth = Annotated[int, Field(ge=0, le=64)]
"""Number of layers of one kind."""

Observation = Annotated[int, Field(ge=0, le=1 << 20)]
"""Numbers that an agent sees, or an index among them."""
Actions = Annotated[int, Field(ge=0, le=1 << 16)]
State = Annotated[int, Field(ge=0, le=MAX_TEAM_NUMBERS)]
"""Numbers that a centralised critic sees."""

Steps = Annotated[int, Field(gt=0, le=LONGEST_EPISODE)]
Batch = Annotated[int, Field(gt=0, le=1_000_000)]
"""Episodes that are played or learned from at once, or between two changes."""
Episodes = Annotated[int, Field(gt=0, le=10_000_000)]
Frames = Annotated[int, Field(gt=0, le=10**12)]
"""Steps of an environment that an expert learns from."""
Epochs = Annotated[int, Field(gt=0, le=100_000)]
Seeds = Annotated[tuple[int, ...], Field(max_length=1000)]
"""Each is a team of its own."""
Threads = Annotated[int, Field(gt=0, le=1024)]

Accelerator = Literal["cpu", "cuda", "mps", "auto"]
"""What networks are computed on; auto: a GPU where there is one."""
