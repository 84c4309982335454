"""Build the recipe of a training from a file and single settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kd_offline import code_guard, recipes
from kd_offline.errors import Remedy, UsageError
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.schemas.expert import TrainRecipe

# What recipes of format 1.1 say of settings that mean nothing to their algorithm.
_UNUSED: dict[str, Any] = {
    "epochs": 3,
    "minibatches": 6,
    "entropy": 0.003,
    "clip": 0.2,
    "gae_lambda": 0.95,
    "huber_delta": 10.0,
    "q_learning": None,
    "kickstart": None,
}


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
    start: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainRecipe:
    """Return the recipe of a training; settings that are not given keep their defaults.

    Single settings take precedence over ``start``, which takes precedence over the file.

    Parameters
    ----------
    environment
        Name of the environment; may be left out where the file has it.
    algorithm
        A name of :data:`kd_offline.experts.algorithms.ALGORITHMS`: ``mappo``, whose critic sees the
        state, ``ippo``, whose critic sees what its agent sees, ``vdn`` and ``qmix``, which learn
        what actions are worth, or one of a plug-in. It decides the defaults of other settings.
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
        A recipe in TOML, or the ``expert.json`` of an expert to take the recipe from. An
        environment, an expert or a mask's file that it names has to be familiar, see
        :mod:`kd_offline.code_guard`, or be given beside it.
    start
        What :func:`~kd_offline.runs.start.start_settings` says of students to start from.
    settings
        Other settings by their dotted paths, such as ``{"entropy": 0.01}``.

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
    students = dict(start or {})
    if not any("environment" in layer for layer in (single, students, from_file)):
        msg = "no environment given: name one, as kd-offline envs lists them"
        raise UsageError(msg)
    recipe = _build([from_file, students, single])
    if file is not None:
        _check_origin(recipe, recipes.paths(single) | recipes.paths(students), file)
    if gru and recipe.architecture.gru is None:
        msg = "the recipe's file has no gru width"
        raise UsageError(msg, Remedy("give both", gru=True, hidden=...))
    return recipe


def recipe_from(given: Mapping[str, Any] | TrainRecipe) -> TrainRecipe:
    """Return a recipe with the settings of its algorithm, from a table or another recipe.

    Raises
    ------
    UnknownNameError
        There is no such algorithm here.
    UsageError, ValueError
        A setting does not exist or has an impossible value.
    """
    tree = given if isinstance(given, Mapping) else given.model_dump(exclude_unset=True)
    declared = _declared(tree)
    if type(given) is declared:
        return given
    try:
        return declared.model_validate(_own(declared, tree))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        got = f" is {first['input']}" if isinstance(first["input"], int | float) else ""
        path = ".".join(map(str, ("recipe", *first["loc"])))
        msg = f"{path}{got}: {first['msg'].removeprefix('Value error, ')}"
        raise ValueError(msg) from None


def _build(layers: Sequence[Mapping[str, Any]]) -> TrainRecipe:
    """Merge ``layers``, later ones winning, and validate them by the algorithm that they name."""
    tree = recipes.merge(layers)
    declared = _declared(tree)
    return recipes.build(declared, [_own(declared, tree)], "the recipe")


def _name(tree: Mapping[str, Any]) -> str:
    return str(tree.get("algorithm", TrainRecipe.model_fields["algorithm"].default))


def _declared(tree: Mapping[str, Any]) -> type[TrainRecipe]:
    """Return the settings of the algorithm that a table names."""
    ALGORITHMS.require(_name(tree))
    return ALGORITHMS.load(_name(tree)).recipe


def _own(declared: type[TrainRecipe], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table without the settings that earlier versions wrote for other algorithms.

    Raises
    ------
    UsageError
        One of them was set.
    """
    own = {}
    for name, value in tree.items():
        if name in declared.model_fields:
            own[name] = value
        elif name in _UNUSED and value == _UNUSED[name]:
            continue
        elif algorithms := _algorithms_with(name):
            msg = (
                f"{name} means nothing to {_name(tree)}, it is a setting of "
                f"{' and '.join(algorithms)}: leave it out, or choose one of these algorithms"
            )
            raise UsageError(msg)
        else:
            own[name] = value  # that it does not exist is said with all other names
    return own


def _algorithms_with(setting: str) -> list[str]:
    return [
        name for name in ALGORITHMS.built_in if setting in ALGORITHMS.load(name).recipe.model_fields
    ]


def _check_origin(recipe: TrainRecipe, given: set[str], file: str | Path) -> None:
    """Raise if the file names code or files that a file may not name by itself."""
    asked_by = code_guard.in_file(file)
    settings = {
        name: value
        for name, value in recipe.environment_kwargs.items()
        if f"environment_kwargs.{name}" not in given
    }
    is_named = "environment" in given
    code_guard.check_recipe_environment(
        recipe.environment, settings, asked_by=asked_by, operation="train_recipe", named=is_named
    )
    for path, reference in recipe.experts().items():
        if path not in given:
            argument = f"settings.{path}"
            code_guard.check_expert(reference, asked_by=asked_by, argument=argument)
    if recipe.start is not None and "start.run" not in given:
        msg = (
            f"{asked_by} starts from the students in {recipe.start.run!r}, and a file may not "
            "choose which other files are read"
        )
        raise UsageError(msg, Remedy("if you know that run, pass", "with it", start=...))
    if recipe.mask is not None and "mask" not in given:
        argument = "settings.mask"
        code_guard.check_name(recipe.mask, what="mask", asked_by=asked_by, argument=argument)


def _actor(hidden: int | None, gru: bool | None) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if hidden is not None:
        out |= {"architecture.trunk": (hidden, hidden), "architecture.gru": hidden}
    if gru is False:
        out |= {"architecture.gru": None, "architecture.critic_gru": None}
    return out
