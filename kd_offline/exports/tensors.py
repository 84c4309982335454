"""The PyTorch export: one safetensors file for the team, and the source of a reader.

The same file is what the NumPy engine reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kd_offline.errors import CheckpointError
from kd_offline.exports.network import Affine, AgentNetwork, Chain, arrays
from kd_offline.files import write_file
from kd_offline.schemas.export import AgentContract
from kd_offline.types import Array

WEIGHTS, READER = "students.safetensors", "reader.py"


def write(
    folder: Path,
    networks: Sequence[AgentNetwork],
    agents: Sequence[AgentContract],
    facts: Mapping[str, object],
) -> None:
    """Write weights and reader into a folder that exists; ``facts`` stand in the metadata."""
    tensors = {
        f"{k}.{name}": np.ascontiguousarray(values)
        for k, network in enumerate(networks)
        for name, values in arrays(network)
    }
    said = {**facts, "agents": [agent.model_dump(mode="json") for agent in agents]}
    # One entry: safetensors writes several in an order of its own, another one every time.
    write_file(folder / WEIGHTS, save(tensors, {"export": json.dumps(said)}))
    write_file(folder / READER, (files("kd_offline.exports") / READER).read_text("utf-8"))


def read(path: Path) -> tuple[AgentNetwork, ...]:
    """Read the networks that :func:`write` wrote.

    Raises
    ------
    CheckpointError
        The file is damaged or foreign.
    """
    try:
        with safe_open(path, "np") as file:
            said = json.loads((file.metadata() or {}).get("export", "{}"))
            every = TypeAdapter(list[AgentContract]).validate_python(said["agents"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tuple(_network(agent, tensors, f"{k}.") for k, agent in enumerate(every))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        msg = f"no exported students can be read from {str(path)!r}: {reason}; export them again"
        raise CheckpointError(msg) from error


def _network(agent: AgentContract, tensors: dict[str, Array], prefix: str) -> AgentNetwork:
    def affine(name: str) -> Affine:
        weight, bias = (tensors[f"{prefix}{name}.{part}"] for part in ("weight", "bias"))
        return Affine(weight, bias, tensors.get(f"{prefix}{name}.scale"))

    def chain(name: str) -> Chain:
        thin = f"{name}.thin"
        return tuple(affine(n) for n in (thin, name) if f"{prefix}{n}.weight" in tensors)

    recurrent = agent.gru is not None
    return AgentNetwork(
        agent=agent.agent,
        seen=np.array(agent.seen, np.int64),
        centre=tensors[f"{prefix}centre"],
        scale=tensors[f"{prefix}scale"],
        motion=tensors.get(f"{prefix}motion"),
        last_action="last_action" in agent.memory,
        drawn=agent.drawn,
        mask_input=agent.mask_input,
        trunk=tuple(affine(f"trunk.{k}") for k in range(len(agent.widths))),
        gru=(chain("gru.input"), chain("gru.memory")) if recurrent else None,
        head=affine("head"),
    )
