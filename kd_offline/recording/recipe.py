"""Build the recipe of a recording from a file and single settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from kd_offline import code_guard, recipes
from kd_offline.schemas.dataset import NoiseLevel
from kd_offline.schemas.environment import Scalar
from kd_offline.schemas.record_recipe import RecordRecipe


class RecordSettings(TypedDict, total=False):
    """The settings of a recording as keyword arguments, for editors and type checkers.

    Each is a field of :class:`~kd_offline.schemas.record_recipe.RecordRecipe`, which describes and
    checks it.
    """

    environment_kwargs: Mapping[str, Scalar]
    expert: str | Path | Sequence[str | Path]
    expert_recipe: str | Path | None
    opponents: Sequence[str]
    episodes: int
    seed: int
    shard: str | None
    noise_mixture: str | Sequence[NoiseLevel] | None
    partner: str | Path | None
    partner_share: float
    partner_agents: float
    masks: Sequence[str] | None
    batch: int | None
    embedding_dtype: str
    full_observations: bool
    name: str | None
    description: str
    licence: str
    citation: str
    threads: int


def record_recipe(
    environment: str | None = None,
    *,
    file: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **given: Unpack[RecordSettings],
) -> RecordRecipe:
    """Return the recipe of a recording; settings that are not given keep their defaults.

    Parameters
    ----------
    environment
        Name of the environment, see ``kd_offline.environments.names``.
    file
        A recipe in TOML; settings given beside it take precedence. Code and other files that it
        names must be allowed, see :mod:`kd_offline.code_guard`, or be given beside it.
    settings
        Settings by their dotted paths, such as ``{"environment_kwargs.n_agents": 4}``.
    **given
        Settings by their names, such as ``episodes=1000``: fields of
        :class:`~kd_offline.schemas.record_recipe.RecordRecipe`.

    Raises
    ------
    UnknownNameError, UsageError
        Something does not exist or has an invalid value.
    """
    from_file = {} if file is None else recipes.read_recipe(file)
    stated = {
        name: str(value) if isinstance(value, Path) else value for name, value in given.items()
    }
    stated |= {} if environment is None else {"environment": environment}
    stated |= settings or {}
    recipe = recipes.build(RecordRecipe, [from_file, stated], "the recipe")
    if file is not None:
        _check_origin(recipe, recipes.paths(stated), code_guard.in_file(file))
    return recipe


def _check_origin(recipe: RecordRecipe, given: set[str], asked_by: str) -> None:
    """Raise if the file of a recipe names code or files that a file may not name by itself."""
    from_file = {
        name: value
        for name, value in recipe.environment_kwargs.items()
        if f"environment_kwargs.{name}" not in given
    }
    is_named = "environment" in given
    code_guard.check_recipe_environment(
        recipe.environment, from_file, asked_by=asked_by, operation="record_recipe", named=is_named
    )
    experts = {"expert": [*recipe.expert], "opponents": recipe.opponents}
    if recipe.partner not in (None, "none"):
        experts["partner"] = [recipe.partner]
    for argument, references in experts.items():
        for reference in references if argument not in given else ():
            code_guard.check_expert(reference, asked_by=asked_by, argument=argument)
    files = {"masks": recipe.masks or (), "expert_recipe": [recipe.expert_recipe or "none"]}
    for argument, names in files.items():
        for name in names if argument not in given else ():
            kind = argument.removesuffix("s").replace("_", " ")
            code_guard.check_name(name, what=kind, asked_by=asked_by, argument=argument)
