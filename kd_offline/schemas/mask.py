"""Models of student masks, which are written in observation blocks."""

from __future__ import annotations

from pydantic import Field

from kd_offline.schemas.environment import Strict


class MaskFile(Strict):
    """A user's own mask: for each agent, the blocks that its student sees.

    ``environment`` is the id of the environment that the mask was written for; without it the mask
    fits any environment that has these agents and blocks.
    """

    name: str | None = Field(default=None, min_length=1)
    description: str = ""
    environment: str | None = None
    agents: dict[str, tuple[str, ...]]


class PresetForEnvironment(Strict):
    """A bundled mask for one environment.

    ``agents`` maps an agent's name without its number to lists of blocks: agent number ``i`` sees
    list ``i``, and the lists start over where there are more agents than lists. A block that the
    agent does not have is passed over.
    """

    why: str
    agents: dict[str, tuple[tuple[str, ...], ...]]


class MaskPreset(Strict):
    """One bundled mask, for every environment that it is defined for.

    ``environments`` has names, or patterns such as ``smax/*`` for those without an entry.
    """

    description: str
    environments: dict[str, PresetForEnvironment]
