"""What runs an export: ONNX Runtime, compiled C, PyTorch or NumPy, all behind one step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from kd_offline.errors import CheckpointError, UnknownNameError, UsageError
from kd_offline.exports import c_library, onnx_graph, tensors
from kd_offline.exports.network import AgentNetwork, Step, to_floats
from kd_offline.exports.team import ExportedTeam
from kd_offline.schemas.export import AgentContract, ExportManifest, Format
from kd_offline.students.masks import Mask
from kd_offline.types import BoolArray, Float32Array, IntArray

MANIFEST = "export.json"


def numpy_steps(networks: Sequence[AgentNetwork]) -> tuple[Step, ...]:
    """Return the steps of networks in NumPy."""
    return tuple(to_floats(network).step for network in networks)


def _numpy(folder: Path, agents: Sequence[AgentContract]) -> tuple[Step, ...]:
    return numpy_steps(tensors.read(folder / "torch" / tensors.WEIGHTS))


def _onnx(folder: Path, agents: Sequence[AgentContract]) -> tuple[Step, ...]:
    return tuple(onnx_graph.step(folder / "onnx" / f"{agent.symbol}.onnx") for agent in agents)


def _c(folder: Path, agents: Sequence[AgentContract]) -> tuple[Step, ...]:
    return c_library.steps(folder / "c", agents)


def _torch(folder: Path, agents: Sequence[AgentContract]) -> tuple[Step, ...]:
    # Our own copy of the reader: the folder may come from someone else, and its code need not run.
    from kd_offline.exports import reader

    loaded = reader.load(folder / "torch" / tensors.WEIGHTS)  # type: ignore[no-untyped-call]
    return tuple(_from_torch(loaded[agent.agent]) for agent in agents)


def _from_torch(agent: object) -> Step:
    import torch

    @torch.inference_mode()
    def step(
        obs: Float32Array, legal: BoolArray, memory: Float32Array
    ) -> tuple[IntArray, Float32Array, Float32Array]:
        given = (torch.from_numpy(np.ascontiguousarray(x)) for x in (obs, legal, memory))
        return tuple(x.numpy() for x in agent.step(*given))  # type: ignore[attr-defined]

    return step


ENGINES: dict[str, tuple[Format, Callable[[Path, Sequence[AgentContract]], tuple[Step, ...]]]] = {
    "numpy": ("torch", _numpy),
    "torch": ("torch", _torch),
    "onnx": ("onnx", _onnx),
    "c": ("c", _c),
}
"""Name of an engine -> the format that it reads, and what opens it; the first that fits is used."""


def read_manifest(folder: str | Path) -> ExportManifest:
    """Read ``export.json`` and check that every file is what it says.

    Raises
    ------
    UsageError
        There is no export.
    CheckpointError
        Something was altered.
    """
    path = Path(folder)
    if not (path / MANIFEST).is_file():
        msg = f"{path} is not an export: it holds no {MANIFEST}, so make one with kd-offline export"
        raise UsageError(msg)
    try:
        manifest = ExportManifest.model_validate_json((path / MANIFEST).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        msg = f"{path / MANIFEST} is damaged: {where}: {first['msg']}; export again"
        raise CheckpointError(msg) from error
    for name, fact in manifest.files.items():
        file = path / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != fact.sha256:
            msg = f"{file} is not the file that {MANIFEST} lists: export again"
            raise CheckpointError(msg)
    return manifest


def engine_for(manifest: ExportManifest, wanted: str | None) -> str:
    """Return the name of the engine that runs an export.

    Raises
    ------
    UnknownNameError
        There is no such engine.
    UsageError
        The export does not hold what it reads.
    """
    able = [name for name, (kind, _) in ENGINES.items() if kind in manifest.formats]
    if wanted is None:
        return able[0]
    if wanted not in ENGINES:
        raise UnknownNameError(what="engine", got=wanted, allowed=ENGINES)
    if wanted not in able:
        msg = (
            f"the engine {wanted!r} reads the format {ENGINES[wanted][0]!r}, and the export holds "
            f"{', '.join(manifest.formats)}: choose {', '.join(able)} or export with --to all"
        )
        raise UsageError(msg)
    return wanted


def load_export(folder: str | Path, engine: str | None = None) -> ExportedTeam:
    """Open an export as a team policy.

    Parameters
    ----------
    folder : path
        With its ``export.json``.
    engine : str, optional
        A key of :data:`ENGINES`. ``c`` compiles and runs what the folder holds, so it is for
        exports of one's own. Default: NumPy, or else the first that can read the export.

    Raises
    ------
    UsageError, CheckpointError, MissingExtraError
        There is no such export or engine, a file was altered, or a library is missing.
    """
    manifest = read_manifest(folder)
    open_steps = ENGINES[engine_for(manifest, engine)][1]
    return team(manifest.agents, open_steps(Path(folder), manifest.agents), manifest.random_k)


def team(
    agents: Sequence[AgentContract], steps: Sequence[Step], random_k: int | None
) -> ExportedTeam:
    """Return the steps of all agents as a policy, under the mask that their contracts state."""
    widths = tuple(agent.obs_width for agent in agents)
    static = None
    if not agents[0].drawn:
        static = np.zeros((len(agents), max(widths)), bool)
        for row, agent in enumerate(agents):
            static[row, list(agent.seen)] = True
    return ExportedTeam(tuple(agents), tuple(steps), Mask("exported", static, random_k, "", widths))
