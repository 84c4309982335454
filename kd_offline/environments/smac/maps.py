"""The maps of the StarCraft Multi-Agent Challenge, and how they lay out an observation.

Samvelyan et al., 2019, and the package that goes with it. Facts only: what a map is decides every
width, so that a game of another layout is noticed before it is played.
"""

from __future__ import annotations

from dataclasses import dataclass

from kd_offline.environments.smac.settings import SmacSettings

_MOVES = ("north", "south", "east", "west")
_PATHING, _HEIGHT = 8, 9  # points around an agent; the height also at the agent's own place


@dataclass(frozen=True, slots=True)
class Map:
    """One map; ``unit_types`` is 0 where all allies are alike, races are P, T or Z."""

    allies: int
    enemies: int
    limit: int
    races: str
    unit_types: int = 0

    @property
    def shields(self) -> tuple[int, int]:
        """Return 1 where allies, and where enemies, are Protoss and have shields."""
        return int(self.races[0] == "P"), int(self.races[1] == "P")

    @property
    def healers(self) -> bool:
        """Whether some allies are Medivacs: they heal allies where others attack enemies."""
        return self.races == "TT" and self.unit_types > 0

    @property
    def actions(self) -> tuple[str, ...]:
        """Return the names of the actions; ``no-op`` is for the dead alone."""
        target = "target" if self.healers else "attack"
        return ("no-op", "stop", *_MOVES, *(f"{target}_{k}" for k in range(self.enemies)))


MAPS = {
    "3m": Map(3, 3, 60, "TT"),
    "8m": Map(8, 8, 120, "TT"),
    "25m": Map(25, 25, 150, "TT"),
    "5m_vs_6m": Map(5, 6, 70, "TT"),
    "8m_vs_9m": Map(8, 9, 120, "TT"),
    "10m_vs_11m": Map(10, 11, 150, "TT"),
    "27m_vs_30m": Map(27, 30, 180, "TT"),
    "MMM": Map(10, 10, 150, "TT", unit_types=3),
    "MMM2": Map(10, 12, 180, "TT", unit_types=3),
    "2s3z": Map(5, 5, 120, "PP", unit_types=2),
    "3s5z": Map(8, 8, 150, "PP", unit_types=2),
    "3s5z_vs_3s6z": Map(8, 9, 170, "PP", unit_types=2),
    "3s_vs_3z": Map(3, 3, 150, "PP"),
    "3s_vs_4z": Map(3, 4, 200, "PP"),
    "3s_vs_5z": Map(3, 5, 250, "PP"),
    "1c3s5z": Map(9, 9, 180, "PP", unit_types=3),
    "2m_vs_1z": Map(2, 1, 150, "TP"),
    "corridor": Map(6, 24, 400, "PZ"),
    "6h_vs_8z": Map(6, 8, 150, "ZP"),
    "2s_vs_1sc": Map(2, 1, 300, "PZ"),
    "so_many_baneling": Map(7, 32, 100, "PZ"),
    "bane_vs_bane": Map(24, 24, 200, "ZZ", unit_types=2),
    "2c_vs_64zg": Map(2, 64, 400, "PZ"),
}


def widths(field: Map, settings: SmacSettings) -> dict[str, int]:
    """Return how many features each block of an observation has, in SMAC's order.

    An enemy is whether it can be attacked, distance, x and y; an ally the same with whether it is
    seen. Both add health and shield (``obs_all_health``) and one bit for each unit type, an ally
    also its last action (``obs_last_action``). Blocks without features are left out.
    """
    ally_shield, enemy_shield = field.shields
    health = settings.obs_all_health
    enemy = 4 + health * (1 + enemy_shield) + field.unit_types
    ally = 4 + health * (1 + ally_shield) + field.unit_types
    ally += settings.obs_last_action * len(field.actions)
    own = (health or settings.obs_own_health) * (1 + ally_shield) + field.unit_types
    move = (
        len(_MOVES) + _PATHING * settings.obs_pathing_grid + _HEIGHT * settings.obs_terrain_height
    )
    found = {
        "move": move,
        "enemies": field.enemies * enemy,
        "allies": (field.allies - 1) * ally,
        "own": own,
    }
    return {name: width for name, width in found.items() if width}


def blocks(field: Map, settings: SmacSettings) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return the index ranges of the blocks, as an environment's spec has them."""
    ranges: dict[str, tuple[tuple[int, int], ...]] = {}
    start = 0
    for name, width in widths(field, settings).items():
        ranges[name] = ((start, start + width),)
        start += width
    return ranges
