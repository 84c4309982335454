"""What may be set of a game of StarCraft II, under the names that SMAC gives it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from kd_offline.schemas.environment import Scalar, Strict


class SmacSettings(Strict):
    """Settings of ``smac/<map>``; the defaults are SMAC's own."""

    difficulty: str = Field(
        default="7", pattern="^[1-9A]$", coerce_numbers_to_str=True, description="of the enemy"
    )
    game_version: str = Field(
        default="latest",
        pattern=r"^(latest|\d+\.\d+\.\d+)$",
        coerce_numbers_to_str=True,
        description="such as 4.6.2; scores of different versions cannot be compared",
    )
    new_game_each_episode: bool = Field(
        default=False, description="start the game anew with each episode's seed: slow, repeatable"
    )
    games: int = Field(
        default=8, ge=1, le=64, description="most games at once; no property of the task"
    )
    step_mul: int = Field(default=8, ge=1, le=1000, description="game steps in one step")
    move_amount: float = Field(default=2.0, gt=0)
    obs_all_health: bool = True
    obs_own_health: bool = True
    obs_last_action: bool = False
    obs_pathing_grid: bool = False
    obs_terrain_height: bool = False
    obs_instead_of_state: bool = False
    state_last_action: bool = True
    reward_sparse: bool = False
    reward_only_positive: bool = True
    reward_death_value: float = 10.0
    reward_win: float = 200.0
    reward_defeat: float = 0.0
    reward_negative_scale: float = 0.5
    reward_scale: bool = True
    reward_scale_rate: float = 20.0

    def recorded(self) -> dict[str, Scalar]:
        """Return the settings that define the task, as a dataset stores them."""
        return self.model_dump(exclude={"games"})

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the game's constructor.

        ``continuing_episode`` makes SMAC say when the limit ended an episode; it changes nothing
        else.
        """
        given = self.model_dump(exclude={"games", "new_game_each_episode"})
        version = None if self.game_version == "latest" else self.game_version
        return given | {"game_version": version, "continuing_episode": True}
