"""IPPO (de Witt et al., 2020, arXiv 2011.09533): MAPPO whose critics see what their agent sees."""

from __future__ import annotations

from typing import Literal

from kd_offline.experts.algorithms.clipped_policy import (
    ClippedPolicy,
    PolicyArchitecture,
    PolicyRecipe,
)


class LocalArchitecture(PolicyArchitecture):
    """Actors, and critics that see what each agent sees."""

    critic: Literal["local"] = "local"


class Recipe(PolicyRecipe):
    """Settings of MAPPO; every critic is local."""

    architecture: LocalArchitecture = LocalArchitecture()


ALGORITHM = ClippedPolicy("clipped policy updates with a critic of each agent's own", Recipe)
