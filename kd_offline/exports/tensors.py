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
from safetensors.numpy import load, save

from kd_offline.errors import CheckpointError, UsageError
from kd_offline.exports.network import BESIDE_CELL, AgentNetwork, arrays, to_floats
from kd_offline.files import write_file
from kd_offline.networks.deployed import CELLS, Affine
from kd_offline.networks.files import TensorFile, read_tensors, with_metadata
from kd_offline.schemas.export import AgentContract
from kd_offline.strict_json import parse
from kd_offline.types import Array

WEIGHTS, READER = "students.safetensors", "reader.py"
FACTS = "export"  # of the file's metadata
REMEDY = "export them again"


def write(
    folder: Path,
    networks: Sequence[AgentNetwork],
    agents: Sequence[AgentContract],
    facts: Mapping[str, object],
) -> None:
    """Write weights and reader into a folder that exists; ``facts`` stand in the metadata.

    Raises
    ------
    UsageError
        The reader does not know the recurrence of a network.
    """
    for cell in (network.cell for network in networks):
        if cell is not None and CELLS.get(cell.name) is not type(cell):
            msg = (
                f"the reader of the PyTorch format knows the recurrences {', '.join(CELLS)}, and "
                f"not {cell.name!r} of these students: choose another format"
            )
            raise UsageError(msg)
    tensors = {
        f"{k}.{name}": np.ascontiguousarray(values)
        for k, network in enumerate(networks)
        for name, values in arrays(network)
    }
    said = {**facts, "agents": [agent.model_dump(mode="json") for agent in agents]}
    write_file(folder / WEIGHTS, with_metadata(save(tensors), {FACTS: json.dumps(said)}))
    write_file(folder / READER, (files("kd_offline.exports") / READER).read_text("utf-8"))


def read(path: Path, agents: Sequence[AgentContract]) -> TensorFile:
    """Read the file that :func:`write` wrote for these agents.

    Raises
    ------
    CheckpointError, StorageError
        The file was altered, is foreign, or is of other agents.
    """
    file = read_tensors(path, REMEDY, required=False)
    try:
        said = parse(file.metadata.get(FACTS, "").encode(), utf8=True)
        every = TypeAdapter(tuple[AgentContract, ...]).validate_python(said["agents"])
    except (ValueError, LookupError, TypeError) as error:
        reason = str(error).splitlines()[0]
        msg = f"no exported students can be read from {str(path)!r}: {reason}; {REMEDY}"
        raise CheckpointError(msg[:500]) from error
    if every != tuple(agents):
        msg = f"{str(path)!r} is of other agents than the export that it lies in; {REMEDY}"
        raise CheckpointError(msg)
    return file


def networks(file: TensorFile, agents: Sequence[AgentContract]) -> tuple[AgentNetwork, ...]:
    """Return the networks of a file that was read.

    Raises
    ------
    CheckpointError
        They are not what their contracts say.
    """
    tensors = load(file.content)
    try:
        found = tuple(_network(agent, tensors, f"{k}.") for k, agent in enumerate(agents))
        fitting = all(map(_fits, found, agents))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0]
        msg = f"no exported students can be read from {str(file.path)!r}: {reason}; {REMEDY}"
        raise CheckpointError(msg) from error
    if not fitting:
        msg = (
            f"the networks in {str(file.path)!r} do not have the sizes that their contracts state; "
            f"{REMEDY}"
        )
        raise CheckpointError(msg)
    return found


def _fits(network: AgentNetwork, agent: AgentContract) -> bool:
    """Tell whether a network has the sizes of its contract, and takes a step with them."""
    wanted = (agent.inputs, len(agent.actions), agent.memory, agent.memory_width, agent.gru)
    found = (network.inputs, network.actions, network.memory, network.memory_width, network.gru)
    if found != wanted:
        return False
    shapes = ((1, network.inputs), (1, network.actions), (1, network.memory_width))
    obs, legal, memory = (np.zeros(shape, np.float32) for shape in shapes)
    _, logits, after = to_floats(network).step(obs, legal == 0, memory)
    return logits.shape == legal.shape and after.shape == memory.shape


def _network(agent: AgentContract, tensors: dict[str, Array], prefix: str) -> AgentNetwork:
    own = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    matrices = {
        name: Affine(
            tensors[f"{prefix}{name}.weight"],
            tensors[f"{prefix}{name}.bias"],
            tensors.get(f"{prefix}{name}.scale"),
        )
        for name in (part.removesuffix(".weight") for part in own if part.endswith(".weight"))
    }
    cells = [CELLS[name] for name in agent.memory if name not in BESIDE_CELL]
    return AgentNetwork(
        agent=agent.agent,
        seen=np.array(agent.seen, np.int64),
        centre=tensors[f"{prefix}centre"],
        scale=tensors[f"{prefix}scale"],
        motion=tensors.get(f"{prefix}motion"),
        last_action="last_action" in agent.memory,
        drawn=agent.drawn,
        mask_input=agent.mask_input,
        trunk=tuple(matrices[f"trunk.{k}"] for k in range(len(agent.widths))),
        cell=cells[0].of(matrices) if cells else None,
        head=matrices["head"],
    )
