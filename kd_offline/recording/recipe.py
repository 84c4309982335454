"""From a file and single settings to the recipe of a recording."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_offline import code_guard, recipes
from kd_offline.schemas.recipes import RecordRecipe


def record_recipe(
    environment: str | None = None,
    *,
    file: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **given: Any,
) -> RecordRecipe:
    """Build the recipe of a recording; whatever is not given keeps its default.

    Parameters
    ----------
    environment
        Name of the environment, see ``kd_offline.environments.names``.
    file
        A recipe in TOML; what is given beside it beats it. Code and other files that it names have
        to be familiar, see :mod:`kd_offline.code_guard`, or be given beside it.
    settings
        Settings by their dotted paths, such as ``{"environment_kwargs.n_agents": 4}``.
    **given
        Settings by their names, such as ``episodes=1000``: fields of
        :class:`~kd_offline.schemas.recipes.RecordRecipe`.

    Raises
    ------
    UnknownNameError, UsageError
        Something does not exist or has an impossible value.
    """
    from_file = {} if file is None else recipes.read_recipe(file)
    single = {name: str(x) if isinstance(x, Path) else x for name, x in given.items()}
    single |= {} if environment is None else {"environment": environment}
    single |= settings or {}
    recipe = recipes.build(RecordRecipe, [from_file, single], "the recipe")
    if file is not None:
        _check_origin(recipe, recipes.paths(single), code_guard.in_file(file))
    return recipe


def _check_origin(recipe: RecordRecipe, given: set[str], asked_by: str) -> None:
    """Refuse code and files that the file of a recipe alone names, unless a file may name them."""
    own = {
        name: value
        for name, value in recipe.environment_kwargs.items()
        if f"environment_kwargs.{name}" not in given
    }
    named = "environment" in given
    code_guard.check_recipe_environment(
        recipe.environment, own, asked_by=asked_by, operation="record_recipe", named=named
    )
    experts = {"expert": [recipe.expert], "opponents": recipe.opponents}
    if recipe.partner not in (None, "none"):
        experts["partner"] = [recipe.partner]
    for argument, references in experts.items():
        for reference in references if argument not in given else ():
            code_guard.check_expert(reference, asked_by=asked_by, argument=argument)
    files = {"masks": recipe.masks or (), "expert_recipe": [recipe.expert_recipe or "none"]}
    for argument, names in files.items():
        for name in names if argument not in given else ():
            what = argument.removesuffix("s").replace("_", " ")
            code_guard.check_name(name, what=what, asked_by=asked_by, argument=argument)
