"""Inputs of a network: their parts, the widths of parts, and the parts that give a total width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kd_offline.errors import MismatchError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import View

WORDS = {
    "obs": "observations",
    "last_action": "a last action",
    "agent_id": "an agent id",
    "state": "a state",
    "all_obs": "all observations",
    "last_actions": "all last actions",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a network's input; ``obs_width`` is that of its agents, or the padded one."""

    names: tuple[str, ...]
    obs_width: int


def widths(spec: EnvironmentSpec, obs_width: int, frames: int = 1) -> dict[str, int]:
    """Return the width of every part."""
    return {
        "obs": frames * obs_width,
        "last_action": spec.action_count,
        "agent_id": spec.n_agents,
        "state": spec.state_width,
        "all_obs": spec.n_agents * spec.obs_width,
        "last_actions": spec.n_agents * spec.action_count,
    }


def fit(
    total: int,
    spec: EnvironmentSpec,
    candidates: Sequence[tuple[str, ...]],
    *,
    own_width: int | None = None,
    frames: int = 1,
) -> Parts | None:
    """Return the first of ``candidates`` whose parts have the width ``total``; None if none has.

    ``own_width`` is the width of the agents' observation without padding, tried second.
    """
    for width in dict.fromkeys((spec.obs_width, own_width or spec.obs_width)):
        sizes = widths(spec, width, frames)
        for names in candidates:
            if sum(sizes[name] for name in names) == total:
                return Parts(names, width)
    return None


def misfit(
    reference: str, total: int, spec: EnvironmentSpec, sizes: Mapping[str, int]
) -> Exception:
    """Return the error for an actor whose inputs this environment cannot provide."""
    offered = ", ".join(f"{WORDS[n]} {sizes[n]}" for n in ("obs", "last_action", "agent_id"))
    msg = (
        f"expert {reference!r} takes {total} inputs, and {spec.id} offers {offered}: no way to "
        "combine them is that wide, so choose the environment it was trained in, or state "
        "inputs and frames in an expert.toml"
    )
    return MismatchError(msg)


def assemble(
    names: Sequence[str],
    view: View,
    agents: Sequence[int],
    obs: Tensor,
    spec: EnvironmentSpec,
) -> Tensor:
    """Return the concatenated parts for ``agents``: float [B, n, I].

    ``obs``: float [B, n, F * O], of these agents, with frames already stacked.
    """
    b, n = len(view.obs), len(agents)

    def part(name: str) -> Tensor:
        if name == "obs":
            return obs
        if name == "agent_id":
            return torch.eye(spec.n_agents)[list(agents)].expand(b, n, -1)
        if name == "state":
            return torch.from_numpy(view.state).unsqueeze(1).expand(b, n, -1)
        if name == "all_obs":
            return torch.from_numpy(view.obs).reshape(b, 1, -1).expand(b, n, -1)
        acted = _one_hot(view, spec.action_count)
        if name == "last_action":
            return acted[:, list(agents)]
        return acted.reshape(b, 1, -1).expand(b, n, -1)

    return torch.cat([part(name) for name in names], -1)


def _one_hot(view: View, actions: int) -> Tensor:
    """Return the last actions as one-hot, float [B, N, A]; zeros where there is none."""
    if view.last_actions is None:
        return torch.zeros(*view.available_actions.shape)
    last = torch.from_numpy(view.last_actions).long()
    hot = functional.one_hot(last.clamp(min=0), actions).float()
    return hot * (last >= 0).unsqueeze(-1)
