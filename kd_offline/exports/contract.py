"""Describe the inputs and outputs of an agent's step for callers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kd_offline.exports.network import AgentNetwork
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.export import AgentContract

PREFIX = "kd_"


def contracts(networks: Sequence[AgentNetwork], spec: EnvironmentSpec) -> tuple[AgentContract, ...]:
    """Return the contract of every agent of a team."""
    names = symbols(spec.agents)
    return tuple(_contract(net, spec, i, names[i]) for i, net in enumerate(networks))


def symbols(agents: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each agent that is one in C, in a file system and among the others."""
    plain = [PREFIX + re.sub(r"[^0-9a-z]", "_", agent.lower()) for agent in agents]
    if len(set(plain)) == len(plain):
        return tuple(plain)
    return tuple(f"{PREFIX}{i}_{name.removeprefix(PREFIX)}" for i, name in enumerate(plain))


def _contract(net: AgentNetwork, spec: EnvironmentSpec, i: int, symbol: str) -> AgentContract:
    agent, seen = spec.agents[i], tuple(int(k) for k in net.seen)
    blocks = {
        name: tuple(k for k in seen if any(start <= k < stop for start, stop in ranges))
        for name, ranges in spec.blocks[agent].items()
    }
    return AgentContract(
        agent=agent,
        symbol=symbol,
        obs_width=spec.obs_widths[i],
        seen=seen,
        blocks={name: indices for name, indices in blocks.items() if indices},
        drawn=net.drawn,
        mask_input=net.mask_input,
        inputs=net.inputs,
        actions=spec.action_names[i],
        memory=net.memory,
        memory_width=net.memory_width,
        widths=tuple(len(layer.bias) for layer in net.trunk),
        gru=net.gru,
        parameters=net.parameters,
        parameter_bytes=net.parameter_bytes,
        macs=net.macs,
        zeros=net.zeros,
    )
