"""Settings of SMAX maps, and loading one; JaxMARL and JAX are imported only then."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from kd_offline.environments.settings import parsed
from kd_offline.errors import MissingExtraError
from kd_offline.schemas.bounds import Steps
from kd_offline.schemas.environment import Strict

if TYPE_CHECKING:
    from kd_offline.environments.smax.environment import Smax


class SmaxSettings(Strict):
    """Settings of every map; the defaults are those of JaxMARL.

    JaxMARL compares the clock with its limit before it counts the step, so its limit of 100 lets an
    episode take 101 steps; ``episode_limit`` says how many they really are.
    """

    see_enemy_actions: bool = Field(
        default=True, description="whether a unit sees what visible enemies did in the last step"
    )
    walls_cause_death: bool = Field(default=True, description="of a unit that leaves the map")
    enemy_shoots: bool = Field(default=True, description="whether the enemy fires at all")
    attack_mode: Literal["closest", "random"] = Field(
        default="closest", description="whom an enemy unit picks among those in its range"
    )
    won_battle_bonus: float = Field(default=1.0, description="reward of the step that wins")
    episode_limit: Steps = Field(default=101, gt=1)

    def of_game(self) -> dict[str, Any]:
        """Return the settings as the game takes them."""
        return self.model_dump(exclude={"episode_limit"}) | {"max_steps": self.episode_limit - 1}


def load(map_name: str, /, **settings: Any) -> Smax:
    """Return ``smax/<map>``.

    Raises
    ------
    MissingExtraError
        JaxMARL is not installed.
    UnknownNameError, UsageError
        There is no such map or setting, or a value is impossible.
    """
    name = f"smax/{map_name}"
    given = parsed(name, SmaxSettings, settings)
    if find_spec("jaxmarl") is None:
        raise MissingExtraError(library="jaxmarl", extra="smax", purpose=f"environment {name!r}")
    from kd_offline.environments.smax.environment import Smax

    return Smax(map_name, given)
