"""Networks found in a checkpoint, and their assembly to a team for an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from kd_offline.errors import MismatchError, UsageError
from kd_offline.experts.importers.inputs import Parts, fit, misfit, widths
from kd_offline.experts.importers.networks import Network
from kd_offline.experts.importers.team import Member, NetworkTeam, Statistics
from kd_offline.networks.mixers import QMixer
from kd_offline.recipes import build
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.foreign import InputRecipe

Networks = dict[str, list[Network]]  # group -> one shared network, or one for each agent


@dataclass(slots=True)
class Found:
    """Networks and settings of one checkpoint, before the environment is known.

    ``inputs`` and ``critic_inputs`` are the possible inputs of the networks, most likely first.
    ``missing`` names in words what an importer searched for and did not find.
    """

    recipe: InputRecipe
    actors: Networks
    inputs: Sequence[tuple[str, ...]]
    files: Sequence[Path]
    critics: Networks = field(default_factory=dict)
    critic_inputs: Sequence[tuple[str, ...]] = ()
    statistics: Statistics | None = None
    mixer: QMixer | None = None
    missing: list[str] = field(default_factory=list)


Given = Mapping[str, object]
# Settings that do not touch how a policy is asked.
ANYWHERE = (
    "library",
    "algorithm",
    "mask_constant",
    "value_units",
    "gamma",
    "bootstrap_on_truncation",
    "epsilon",
)


def settle(detected: Given, given: Given) -> InputRecipe:
    """Return detected settings merged with those of the user, which take precedence.

    Raises
    ------
    UsageError
        A setting does not exist or has an impossible value.
    """
    if "library" in given and given["library"] != detected["library"]:
        msg = (
            f"the expert recipe is for {given['library']}, the expert is one of "
            f"{detected['library']}: give the recipe that belongs to it"
        )
        raise UsageError(msg)
    return build(InputRecipe, [detected, given], "expert recipe")


def only(given: Given, allowed: Sequence[str], library: str) -> Given:
    """Return ``given`` if all its settings apply to experts of ``library``.

    Raises
    ------
    UsageError
        One does not: such an expert sees to it by itself.
    """
    for name in given:
        if name in InputRecipe.model_fields and name not in (*allowed, *ANYWHERE):
            msg = (
                f"expert recipe: {name} cannot be set for {library}, where the policy sees to it "
                f"itself: leave it out; allowed are {', '.join((*ANYWHERE, *allowed))}"
            )
            raise UsageError(msg)
    return given


def to_team(checkpoint: Found, spec: EnvironmentSpec, reference: str, given: Given) -> NetworkTeam:
    """Return the team for an environment; its recipe names the input parts that fitted.

    Raises
    ------
    MismatchError
        Widths, agents or actions are not those of the environment.
    """
    recipe = checkpoint.recipe
    candidates = [recipe.inputs] if "inputs" in given else checkpoint.inputs
    agents = _agents_of(checkpoint.actors, recipe, spec, reference)
    actors = []
    for group, networks in checkpoint.actors.items():
        for network, agent_indices in _owners(networks, agents[group], reference, spec):
            parts = _fit(network, agent_indices, spec, candidates, recipe.frames)
            if parts is None:
                raise misfit(reference, network.inputs, spec, widths(spec, spec.obs_width))
            _check_actions(network, agent_indices, spec, reference)
            actors.append(Member(network, agent_indices, parts))
    critics = _critics(checkpoint, spec, agents, given)
    update = {
        "inputs": actors[0].parts.names,
        "critic_inputs": critics[0].parts.names if critics else None,
    }
    return NetworkTeam(
        spec=spec,
        recipe=recipe.model_copy(update=update),
        actors=tuple(actors),
        critics=critics,
        statistics=_statistics(checkpoint, spec) if critics else None,
        **_mixing(checkpoint, spec, reference),
    )


def _critics(
    checkpoint: Found, spec: EnvironmentSpec, agents: Mapping[str, tuple[int, ...]], given: Given
) -> tuple[Member, ...]:
    """Return the critics; empty where the environment lacks their inputs."""
    candidates = checkpoint.critic_inputs
    if "critic_inputs" in given:
        candidates = [checkpoint.recipe.critic_inputs] if checkpoint.recipe.critic_inputs else []
    members = []
    for group, networks in checkpoint.critics.items():
        agent_indices = agents.get(group, ())
        owners = [(networks[0], agent_indices)]
        if len(networks) == len(agent_indices) > 1:
            owners = [(n, (i,)) for n, i in zip(networks, agent_indices, strict=True)]
        for network, served in owners:
            parts = _fit(network, served, spec, candidates, 1) if candidates else None
            if parts is None:
                checkpoint.missing.append(
                    f"a critic that reads what {spec.id} shows (it takes {network.inputs} inputs)"
                )
                return ()
            members.append(Member(network, served, parts))
    return tuple(members)


def _fit(
    network: Network,
    agents: tuple[int, ...],
    spec: EnvironmentSpec,
    candidates: Sequence[tuple[str, ...]],
    frames: int,
) -> Parts | None:
    own = {spec.obs_widths[i] for i in agents}
    width = own.pop() if len(own) == 1 else None
    return fit(network.inputs, spec, candidates, own_width=width, frames=frames)


def _agents_of(
    networks: Networks, recipe: InputRecipe, spec: EnvironmentSpec, reference: str
) -> dict[str, tuple[int, ...]]:
    """Return the agents that each group of networks serves."""
    if len(networks) == 1:
        return dict.fromkeys(networks, tuple(range(spec.n_agents)))
    table = {**spec.sides, **recipe.groups}
    index = {agent: i for i, agent in enumerate(spec.agents)}
    served = {group: table.get(group, ()) for group in networks}
    if sorted(a for agents in served.values() for a in agents) != sorted(spec.agents):
        msg = (
            f"expert {reference!r} has networks for the groups {', '.join(networks)}: say in an "
            f"expert.toml under [groups] which of {', '.join(spec.agents)} belong to each"
        )
        raise MismatchError(msg)
    return {group: tuple(index[a] for a in agents) for group, agents in served.items()}


def _owners(
    networks: Sequence[Network], agents: tuple[int, ...], reference: str, spec: EnvironmentSpec
) -> list[tuple[Network, tuple[int, ...]]]:
    if len(networks) == 1:
        return [(networks[0], agents)]
    if len(networks) != len(agents):
        msg = (
            f"expert {reference!r} has networks for {len(networks)} agents, and {spec.id} has "
            f"{len(agents)}: choose the environment it was trained in"
        )
        raise MismatchError(msg)
    return [(network, (i,)) for network, i in zip(networks, agents, strict=True)]


def _check_actions(
    network: Network, agents: tuple[int, ...], spec: EnvironmentSpec, reference: str
) -> None:
    for i in agents:
        if network.outputs not in (spec.action_counts[i], spec.action_count):
            msg = (
                f"expert {reference!r} has {network.outputs} outputs for {spec.agents[i]}, which "
                f"has {spec.action_counts[i]} actions in {spec.id}: choose the environment it was "
                "trained in (an expert with continuous actions cannot be used)"
            )
            raise MismatchError(msg)


def _statistics(checkpoint: Found, spec: EnvironmentSpec) -> Statistics | None:
    if checkpoint.statistics is None or len(checkpoint.statistics.mean) in (1, spec.n_agents):
        return checkpoint.statistics
    checkpoint.missing.append("a value normaliser for every agent")
    return None


def _mixing(checkpoint: Found, spec: EnvironmentSpec, reference: str) -> dict[str, Any]:
    """Return the settings of :class:`NetworkTeam` for the mixing of values."""
    recipe, mixer = checkpoint.recipe, checkpoint.mixer
    if recipe.output != "q_values" or "iql" in recipe.algorithm.lower():
        return {}
    if len(spec.sides) > 1:
        checkpoint.missing.append(f"a mixer for each of the sides {', '.join(spec.sides)}")
        return {}
    if mixer is None:
        return {"sums": "vdn" in recipe.algorithm.lower()}
    if mixer.shape.agents != spec.n_agents:
        checkpoint.missing.append(f"a mixer for {spec.n_agents} agents")
        return {}
    widths = {"state": spec.state_width, "all_obs": spec.n_agents * spec.obs_width}
    for name, width in widths.items():
        if mixer.shape.state == width:
            return {"mixer": mixer, "mixer_reads": name}
    msg = (
        f"the mixer of expert {reference!r} reads a state of {mixer.shape.state} numbers, and "
        f"{spec.id} has {spec.state_width}: choose the environment it was trained in, or state "
        'algorithm = "iql" in an expert.toml to record it without its mixer'
    )
    raise MismatchError(msg)


def debiased(mean: Tensor, mean_square: Tensor, term: Tensor) -> Statistics:
    """Return mean and deviation from exponential averages of values and squares.

    Both averages start at zero, so they are divided by their accumulated weight. The floors are
    those of the library that stores them.
    """
    share = term.clamp(min=1e-5)
    centre = (mean / share).flatten()
    variance = (mean_square / share).flatten() - centre**2
    return Statistics(centre, variance.clamp(min=1e-2).sqrt())
