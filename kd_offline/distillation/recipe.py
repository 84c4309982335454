"""From a method, a preset, a file and single settings to the recipe of a distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_offline import code_guard, recipes
from kd_offline.distillation.methods import METHODS
from kd_offline.errors import UnknownNameError
from kd_offline.schemas.recipes import DistillRecipe

PRESETS: dict[str, dict[str, Any]] = {
    "lh": {"mask": "limited", "student.hidden": 32},
    "lh+a": {"mask": "limited", "student.hidden": "auto"},
}
"""The paper's student settings: limited view, and limited view with allocated widths."""

QUANTISE_FROM = 0.8
"""Share of the training before the weights are rounded, where nothing else is said."""


def distill_recipe(
    *,
    method: str | None = None,
    preset: str | None = None,
    mask: str | None = None,
    hidden: int | str | Sequence[int] | None = None,
    seeds: int | Sequence[int] | None = None,
    qat: bool = False,
    file: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> DistillRecipe:
    """Build the recipe of a distillation; whatever is not given keeps its default.

    Single settings beat the preset, which beats the file, which beats the method's defaults.

    Parameters
    ----------
    method
        One of ``kd_offline.distillation.methods.METHODS``; default ``kd-marl``.
    preset
        ``lh`` (mask limited, hidden 32) or ``lh+a`` (mask limited, hidden auto).
    hidden
        One width, one for each agent, or ``auto``.
    seeds
        How many teams, or the seeds themselves.
    qat
        Train the last part with the weights that an int8 export will have.
    file
        A recipe in TOML, or the ``run.json`` of a run to take the recipe from. A hardware profile
        that it names by a path has to be given beside it, see :mod:`kd_offline.code_guard`.
    settings
        Anything else by its dotted path, such as ``{"switches.ratio": "joint"}``.

    Raises
    ------
    UnknownNameError, UsageError
        Something does not exist or has an impossible value.
    """
    given = {
        "method": method,
        "mask": mask,
        "student.hidden": hidden,
        "seeds": _seeds(seeds),
        "optimisation.quantise_from": QUANTISE_FROM if qat else None,
    }
    single = {k: v for k, v in given.items() if v is not None} | dict(settings or {})
    from_file = {} if file is None else recipes.read_recipe(file)
    chosen = single.get("method", from_file.get("method", "kd-marl"))
    if chosen not in METHODS:
        raise UnknownNameError(what="method", got=str(chosen), allowed=METHODS)
    start = METHODS[chosen]
    defaults = {
        "method": chosen,
        "weights": start.weights.model_dump(),
        "switches": start.switches.model_dump(),
    }
    layers = [defaults, from_file, _preset(preset), single]
    recipe = recipes.build(DistillRecipe, layers, "the recipe")
    if file is not None and "budget.profile" not in recipes.paths(single):
        check_profile(recipe, code_guard.in_file(file))
    return recipe


def check_profile(recipe: DistillRecipe, asked_by: str) -> None:
    """Raise a ``UsageError`` where a recipe that stands in a file names a profile by its path."""
    if recipe.budget is not None and recipe.budget.profile is not None:
        profile = recipe.budget.profile
        code_guard.check_name(
            profile, what="hardware profile", asked_by=asked_by, option="--device"
        )


def _seeds(seeds: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if seeds is None:
        return None
    return tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)


def _preset(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    if name not in PRESETS:
        raise UnknownNameError(what="preset", got=name, allowed=PRESETS)
    return PRESETS[name]
