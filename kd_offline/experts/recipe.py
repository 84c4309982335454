"""From a file and single settings to the recipe of an expert's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_offline import recipes
from kd_offline.errors import UsageError
from kd_offline.schemas.expert import TrainRecipe


def train_recipe(
    environment: str | None = None,
    *,
    algorithm: str | None = None,
    hidden: int | None = None,
    gru: bool | None = None,
    widths: Sequence[int] | None = None,
    share: bool | None = None,
    critic: str | None = None,
    file: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainRecipe:
    """Build the recipe of a training; whatever is not given keeps its default.

    Single settings beat the file, which beats the defaults.

    Parameters
    ----------
    environment
        Name of the environment; may be left out where the file has it.
    algorithm
        ``mappo``, whose critic sees the state, ``ippo``, whose critic sees what its agent sees, or
        ``vdn`` and ``qmix``, which learn what actions are worth.
    hidden
        Width of every layer of the actors.
    gru
        Whether actors and critics have a memory.
    widths
        A width for each agent's own network.
    share
        Whether like agents share one network and are told apart by an id.
    critic
        ``central`` or ``local``; default: as the algorithm says.
    file
        A recipe in TOML, or the ``expert.json`` of an expert to take the recipe from.
    settings
        Anything else by its dotted path, such as ``{"entropy": 0.01}``.

    Raises
    ------
    UnknownNameError, UsageError
        Something does not exist or has an impossible value.
    """
    from_file = {} if file is None else recipes.read_recipe(file)
    single: dict[str, Any] = {
        "environment": environment,
        "algorithm": algorithm,
        "architecture.widths": None if widths is None else tuple(widths),
        "architecture.share": share,
        "architecture.critic": critic,
    }
    single = {k: v for k, v in single.items() if v is not None}
    single |= _actor(hidden, gru) | dict(settings or {})
    if algorithm == "ippo":
        single = {"architecture.critic": "local"} | single
    if "environment" not in single and "environment" not in from_file:
        msg = "no environment given: name one, as kd-offline envs lists them"
        raise UsageError(msg)
    recipe = recipes.build(TrainRecipe, [from_file, single], "the recipe")
    if recipe.algorithm == "ippo" and recipe.architecture.critic == "central":
        msg = "ippo has a local critic, got central: leave --critic out or choose mappo"
        raise UsageError(msg)
    if gru and recipe.architecture.gru is None:
        msg = "the recipe's file has no gru width: give --hidden with --gru"
        raise UsageError(msg)
    return recipe


def _actor(hidden: int | None, gru: bool | None) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if hidden is not None:
        out |= {"architecture.trunk": (hidden, hidden), "architecture.gru": hidden}
    if gru is False:
        out |= {"architecture.gru": None, "architecture.critic_gru": None}
    return out
