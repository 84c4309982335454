"""Build the recipe of a distillation from a method, a preset, a file and single settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_offline import code_guard, recipes
from kd_offline.distillation.methods import METHODS
from kd_offline.distillation.own_episodes import SHARE
from kd_offline.distillation.start import start_settings
from kd_offline.distillation.terms import TERMS
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.schemas.parts import PartRecord
from kd_offline.schemas.recipes import DistillRecipe, StudentArchitecture, with_present_names
from kd_offline.students.families import require_offer, settings_of

_OF_METHOD = ("method", "weights", "terms", "objective")
"""Settings that a method decides."""

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
    diverse: bool = False,
    start: str | Path | None = None,
    file: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> DistillRecipe:
    """Return the recipe of a distillation; settings that are not given keep their defaults.

    Single settings take precedence over the preset, the preset over the file, and the file over
    the method's defaults.

    Parameters
    ----------
    method
        One of ``kd_offline.distillation.methods.METHODS``; default ``kd-marl``.
    preset
        ``lh`` (mask limited, hidden 32) or ``lh+a`` (mask limited, hidden auto).
    hidden
        One width, one for each agent, or ``auto``.
    seeds
        The number of teams, or the seeds themselves.
    qat
        Train the last fifth of the epochs with the weights that an int8 export will have.
    diverse
        Let each seed learn from its own random half of the training episodes.
    start
        Folder of a run whose students continue to learn. Networks, mask, method and seeds then
        default to theirs.
    file
        A recipe in TOML, or the ``run.json`` of a run to take the recipe from. If it names a
        hardware profile or a run to start from by a path, the same has to be given as an argument
        too, see :mod:`kd_offline.code_guard`.
    settings
        Other settings by their dotted paths, such as ``{"terms.policy.ratio": "joint"}``.

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
        "diverse": SHARE if diverse else None,
    }
    single = {k: v for k, v in given.items() if v is not None} | dict(settings or {})
    from_file = {} if file is None else recipes.read_recipe(file)
    begun = {} if start is None else start_settings(start)
    stated = single.get("method", from_file.get("method"))
    chosen = stated or begun.get("method", "kd-marl")
    if chosen not in METHODS:
        raise UnknownNameError(what="method", got=str(chosen), allowed=METHODS)
    if stated not in (None, begun.get("method")):  # its losses are those of the method then
        begun = {name: value for name, value in begun.items() if name not in _OF_METHOD}
    defaults = {"method": chosen, **METHODS[chosen].layer()}
    # A run to go on from that the user names beats one in the file.
    named = {} if start is None else {"start": begun["start"]}
    recipe = built([defaults, begun, from_file, _preset(preset), single, named], "the recipe")
    if file is None:
        return completed(recipe)
    recipe = completed(recipe, f"the recipe in {str(file)!r}", recipes.stated_parts(file))
    if "budget.profile" not in recipes.paths(single):
        check_profile(recipe, code_guard.in_file(file))
    if start is None:
        check_start(recipe, code_guard.in_file(file))
    return recipe


def built(layers: Iterable[Mapping[str, Any]], what: str) -> DistillRecipe:
    """Return the recipe of ``layers``, later ones winning, also of those of former versions.

    Raises
    ------
    UnknownNameError, UsageError
        As :func:`kd_offline.recipes.build`.
    """
    present = [with_present_names(recipes.nested(layer)) for layer in layers]
    return recipes.build(DistillRecipe, present, what)


def completed(
    recipe: DistillRecipe, asked_by: str = "", parts: Sequence[PartRecord] = ()
) -> DistillRecipe:
    """Return a recipe with all settings of its student family and loss terms, each of them checked.

    Parameters
    ----------
    asked_by
        The file that the recipe is from, in words.
    parts
        What the file says of packages that these are from.

    Raises
    ------
    UnknownNameError
        There is no such family or term here, or it has no such setting.
    UsageError
        A setting has an impossible value, the family does not offer what the recipe needs, or no
        term has a weight.
    """
    from kd_offline.distillation.terms.active import term_type

    student = settings_of(recipe.student, asked_by=asked_by, parts=parts)
    if recipe.first_settled is not None:
        require_offer(student, "gates")
    if recipe.sparsity is not None:
        require_offer(student, "sparse")
    if recipe.optimisation.quantise_from is not None or (
        recipe.budget is not None and recipe.budget.precision == "int8"
    ):
        require_offer(student, "int8")
    packages = {p.name: f"{p.package} {p.version}" for p in parts if p.kind == TERMS.what}
    named = dict.fromkeys((*recipe.weights, *recipe.terms))
    for name in named:
        TERMS.require(name, asked_by=asked_by, package=packages.get(name, ""))
    weights, terms = {}, {}
    for name in (name for name in TERMS if name in named):
        weights[name] = recipe.weights.get(name, 0.0)
        model, given = term_type(name).settings_type, recipe.terms.get(name, {})
        checked = recipes.build(model, [given], f"the recipe, terms.{name}")
        terms[name] = checked.model_dump(mode="json")
    if not any(weights.values()):
        msg = f"no loss term has a weight: set one of weights.{', weights.'.join(TERMS)}"
        raise UsageError(msg)
    plain = StudentArchitecture.model_validate(student.model_dump(mode="json"))
    update = {"student": plain, "weights": weights, "terms": terms}
    return recipe.model_copy(update=update)


def check_profile(
    recipe: DistillRecipe, asked_by: str, argument: str = "settings.budget.profile"
) -> None:
    """Raise a ``UsageError`` where a recipe that stands in a file names a profile by its path.

    ``argument`` is what the user names it with.
    """
    if recipe.budget is not None and recipe.budget.profile is not None:
        profile = recipe.budget.profile
        code_guard.check_name(
            profile, what="hardware profile", asked_by=asked_by, argument=argument
        )


def check_start(recipe: DistillRecipe, asked_by: str) -> None:
    """Raise a ``UsageError`` where a recipe that stands in a file starts from the run at a path."""
    if recipe.start is not None:
        run = recipe.start.run
        code_guard.check_name(run, what="run to start from", asked_by=asked_by, argument="start")


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
