"""Engines that run an export with the same step: ONNX Runtime, compiled C, PyTorch or NumPy."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kd_offline.datasets.storage.safe_open import list_files
from kd_offline.errors import CheckpointError, Remedy, StorageError, UnknownNameError, UsageError
from kd_offline.exports import c_library, onnx_graph, tensors
from kd_offline.exports.network import AgentNetwork, Step, to_floats
from kd_offline.exports.team import ExportedTeam
from kd_offline.files import make_folder, read_file, temporary_folder, write_file
from kd_offline.schemas.export import AgentContract, ExportManifest, Format
from kd_offline.sealed_json import read_document
from kd_offline.students.masks import Mask
from kd_offline.types import BoolArray, Float32Array, IntArray

MANIFEST = "export.json"


def numpy_steps(networks: Sequence[AgentNetwork]) -> tuple[Step, ...]:
    """Return the steps of networks in NumPy."""
    return tuple(to_floats(network).step for network in networks)


def _numpy(folder: Path, agents: Sequence[AgentContract]) -> tuple[Step, ...]:
    file = tensors.read(folder / "torch" / tensors.WEIGHTS, agents)
    return numpy_steps(tensors.networks(file, agents))


def _onnx(folder: Path, agents: Sequence[AgentContract]) -> tuple[Step, ...]:
    return tuple(onnx_graph.step(folder / "onnx" / f"{agent.symbol}.onnx") for agent in agents)


def _c(folder: Path, agents: Sequence[AgentContract]) -> tuple[Step, ...]:
    return c_library.steps(folder / "c", agents)


def _torch(folder: Path, agents: Sequence[AgentContract]) -> tuple[Step, ...]:
    # Our own copy of the reader: the folder may come from someone else, and its code need not run.
    from kd_offline.exports import reader

    file = tensors.read(folder / "torch" / tensors.WEIGHTS, agents)
    tensors.networks(file, agents)  # that they have the sizes of their contracts
    loaded = reader.read(file.content)  # type: ignore[no-untyped-call]
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
"""Name of an engine -> the format that it reads, and what opens it; the first that fits is used,
but none of :data:`COMPILED`."""

_EXPORT_ALL = Remedy("export it again with", operation="export", to="all")
COMPILED = ("c",)
"""Engines that run code which an export holds, so that they have to be asked for by name."""

_MAX_BYTES = 1 << 30  # of one file
# What evaluate, audit and profile put beside an export, and what its users make by its own
# instructions; .lock is how an audit locks a folder on Windows.
_BESIDE = re.compile(
    rf"{re.escape(MANIFEST)}|"
    r"\.?(evaluation|profile|robustness(\.unfinished)?)\.json(\.\w+\.partial)?"
    r"|c/build/.*|torch/__pycache__/.*|\.lock",
    re.DOTALL,
)


def read_manifest(folder: str | Path) -> ExportManifest:
    """Read ``export.json`` and check that exactly the listed files exist, with their digests.

    Raises
    ------
    UsageError
        There is no export.
    CheckpointError
        Something was altered, or lies there that it does not list.
    """
    path = Path(folder)
    if not (path / MANIFEST).is_file():
        msg = f"{path} is not an export: it holds no {MANIFEST}, so make one with kd-offline export"
        raise UsageError(msg)
    manifest = read_document(ExportManifest, path / MANIFEST, "export again")
    for name in list_files(path):
        if name not in manifest.files and not _BESIDE.fullmatch(name):
            msg = (
                f"{str(path / name)!r} is not among the files that {MANIFEST} lists: find out who "
                "put it there, and remove it or export again"
            )
            raise CheckpointError(msg)
    for name in manifest.files:
        _content(path, name, manifest)
    return manifest


def _content(folder: Path, name: str, manifest: ExportManifest) -> bytes:
    """Return the bytes of a listed file, which are those that were listed."""
    file, fact = folder / name, manifest.files[name]
    try:
        data = read_file(file, min(fact.bytes, _MAX_BYTES))
    except StorageError as error:
        msg = f"{file} is not the file that {MANIFEST} lists ({error})"
        raise CheckpointError(msg) from error
    if hashlib.sha256(data).hexdigest() != fact.sha256:
        msg = f"{file} is not the file that {MANIFEST} lists: export again"
        raise CheckpointError(msg)
    return data


def engine_for(manifest: ExportManifest, wanted: str | None) -> str:
    """Return the name of the engine that runs an export.

    Raises
    ------
    UnknownNameError
        There is no such engine.
    UsageError
        The export does not hold what it reads, or only what would be compiled and run.
    """
    able = [name for name, (kind, _) in ENGINES.items() if kind in manifest.formats]
    if wanted is None:
        for name in able:
            if name not in COMPILED:
                return name
        msg = (
            f"the export holds {', '.join(manifest.formats)} alone, which would be compiled and "
            "run here"
        )
        trust = Remedy("if you trust whoever made it, pass", engine="c")
        raise UsageError(msg, trust, _EXPORT_ALL)
    if wanted not in ENGINES:
        raise UnknownNameError(what="engine", got=wanted, allowed=ENGINES)
    if wanted not in able:
        msg = (
            f"the engine {wanted!r} reads the format {ENGINES[wanted][0]!r}, and the export holds "
            f"{', '.join(manifest.formats)}"
        )
        raise UsageError(msg, Remedy(f"choose {', '.join(able)}"), _EXPORT_ALL)
    return wanted


def load_export(
    folder: str | Path, engine: str | None = None, manifest: ExportManifest | None = None
) -> ExportedTeam:
    """Open an export as a team policy.

    Only files that ``export.json`` lists are used, and of each the bytes that were checked.

    Parameters
    ----------
    folder : path
        With its ``export.json``.
    engine : str, optional
        A key of :data:`ENGINES`. ``c`` compiles and runs what the folder holds, so it is for
        exports that one trusts, and never chosen. Default: NumPy, or else the first of the others
        that can read the export.
    manifest : ExportManifest, optional
        The export's, where it was read before.

    Raises
    ------
    UsageError, CheckpointError, MissingExtraError
        There is no such export or engine, a file was altered, or a library is missing.
    """
    manifest = read_manifest(folder) if manifest is None else manifest
    kind, open_steps = ENGINES[engine_for(manifest, engine)]
    # What is opened is a copy of what was checked: the folder may be changed while it is read.
    with temporary_folder() as place:
        for name in manifest.files:
            if name.startswith(f"{kind}/"):
                target = place / name
                make_folder(target.parent)
                write_file(target, _content(Path(folder), name, manifest), durable=False)
        steps = open_steps(place, manifest.agents)
    return team(manifest.agents, steps, manifest.random_k)


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
