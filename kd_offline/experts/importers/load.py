"""Load an expert of another library from ``library:place``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kd_offline.errors import UsageError
from kd_offline.experts.importers import benchmarl, epymarl, factory, jaxmarl, onnx_step, onpolicy
from kd_offline.experts.importers.expert import ForeignExpert, entry
from kd_offline.experts.importers.files import digest
from kd_offline.experts.importers.found import Found, Given, to_team
from kd_offline.experts.importers.team import NetworkTeam
from kd_offline.networks.arithmetic import CountedShape, NetworkCost, ValuePart
from kd_offline.recipes import read_recipe
from kd_offline.schemas.environment import EnvironmentSpec

RECIPE = "expert.toml"

# What reads checkpoints, and what makes policies without reading tensors.
FINDERS: dict[str, Callable[[Path, str, Given], Found]] = {
    "epymarl": partial(epymarl.find, "epymarl"),
    "pymarl2": partial(epymarl.find, "pymarl2"),
    "on-policy": onpolicy.find,
    "benchmarl": benchmarl.find,
    "jaxmarl": jaxmarl.find,
}
LOADERS: dict[str, Callable[[str, str, EnvironmentSpec, Given], ForeignExpert]] = {
    "python": factory.load,
    "onnx": onnx_step.load,
}
PREFIXES = (*FINDERS, *LOADERS)


def prefix_of(reference: str) -> str | None:
    """Return the library in a reference; None where it has no prefix."""
    prefix, colon, _ = reference.partition(":")
    return prefix if colon and prefix in PREFIXES else None


def load(
    reference: str,
    spec: EnvironmentSpec,
    recipe: str | Path | None = None,
    *,
    with_value: bool = True,
) -> ForeignExpert:
    """Load the expert ``library:place`` for an environment.

    ``recipe`` is a TOML file with settings of :class:`~kd_offline.schemas.foreign.InputRecipe`,
    which take precedence over detected ones. By default an ``expert.toml`` beside the checkpoint is
    used.

    Raises
    ------
    CheckpointError, MismatchError, UsageError, MissingExtraError
        See the error's message.
    """
    library, _, place = reference.partition(":")
    if not place:
        msg = f"expert {reference!r} names no place: write it as {library}:PATH"
        raise UsageError(msg)
    path = Path(place).expanduser()
    given = _given(path, recipe)
    if library in LOADERS:
        origin = place if library == "python" else str(path)
        return replace(LOADERS[library](origin, reference, spec, given), with_value=with_value)
    checkpoint = FINDERS[library](path, reference, given)
    team = to_team(checkpoint, spec, reference, given)
    return ForeignExpert(
        policy=team if with_value else replace(team, critics=(), mixer=None, sums=False),
        recipe=team.recipe,
        record=entry(
            team.recipe,
            digest(checkpoint.files, team.recipe.model_dump_json()),
            sum(m.network.count()[0] for m in team.actors),
            "GRU state after the step" if team.actors[0].network.gru else "last hidden layer",
            _architecture(team),
            checkpoint.missing,
        ),
        reference=reference,
        shapes=_shapes(team),
        with_value=with_value,
        critics=_critics(team),
        modules={i: member.network for member in team.actors for i in member.agents},
    )


def _given(path: Path, recipe: str | Path | None) -> Mapping[str, Any]:
    if recipe is not None:
        return read_recipe(recipe)
    recipe_file = (path if path.is_dir() else path.parent) / RECIPE
    return read_recipe(recipe_file) if recipe_file.is_file() else {}


def _architecture(team: NetworkTeam) -> dict[str, Any]:
    """Return a description of the actors: layers from input to output, and the agents of each."""
    return {
        "library": team.recipe.library,
        "networks": [
            {
                "agents": [team.spec.agents[i] for i in member.agents],
                "inputs": member.network.inputs,
                "trunk": list(member.network.trunk),
                "gru": member.network.memory_width or None,
                "outputs": member.network.outputs,
            }
            for member in team.actors
        ],
        "mixer": "vdn" if team.sums else None if team.mixer is None else "qmix",
    }


def _critics(team: NetworkTeam) -> tuple[ValuePart, ...]:
    """Return the cost of the networks that estimate values, and their calls in a team step."""
    mixer = [] if team.mixer is None else [ValuePart(team.mixer.cost())]
    critics = [ValuePart(NetworkCost(*m.network.count()), len(m.agents)) for m in team.critics]
    return (*critics, *mixer)


def _shapes(team: NetworkTeam) -> tuple[CountedShape, ...]:
    by_agent = {i: member.network for member in team.actors for i in member.agents}
    networks = [by_agent[i] for i in range(team.spec.n_agents)]
    return tuple(
        CountedShape(n.inputs, n.outputs, n.count(), n.trunk, n.memory_width or None)
        for n in networks
    )
