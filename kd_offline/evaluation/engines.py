"""What steps one agent's network, timed step by step: PyTorch, ONNX Runtime, C, NumPy.

A sampler runs steps with the memory fed back and returns the nanoseconds of each. Every engine gets
the same observations and legal actions, already in the form that it takes, and decides: input
scaling, network, masked argmax. Expert and student go through the same code, so that within an
engine their networks are compared and nothing else; an expert of another library is run by its own
modules, whose inputs arrive ready.
"""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from kd_offline.errors import KdOfflineError, MismatchError
from kd_offline.types import Float32Array

if TYPE_CHECKING:
    from kd_offline.exports.network import AgentNetwork, Step
    from kd_offline.schemas.export import AgentContract

Nanoseconds = npt.NDArray[np.int64]
Sampler = Callable[[int], Nanoseconds]
OBSERVATIONS = 16
"""Different observations that are taken in turn."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to be timed, with all that engines make their steps from.

    ``network`` and ``contract`` are what is exported; in their place an expert of another library
    has ``actor``: a module that maps inputs [B, I] and memory to outputs, embeddings and memory,
    and starts by ``start(B)``.
    """

    who: Literal["expert", "student"]
    agents: tuple[str, ...]
    inputs: int
    actions: int
    macs: int
    parameter_bytes: int
    ram_bytes: int | None = None
    network: AgentNetwork | None = None
    contract: AgentContract | None = None
    actor: Any = None


@dataclass(frozen=True, slots=True)
class Bench:
    """How steps are run: rows at once, where C is built, and the seed of the observations."""

    batch: int
    folder: Path
    seed: int = 0

    def observations(self, inputs: int) -> Float32Array:
        """Return standard normal observations, float32 [K, B, I]."""
        from kd_offline.seeding import generator

        shape = (OBSERVATIONS, self.batch, inputs)
        return generator(self.seed, "latency").standard_normal(shape).astype(np.float32)


def timed(step: Callable[[int], object]) -> Sampler:
    """Return a sampler of a step, which is told its number."""
    clock = time.perf_counter_ns

    def sample(count: int) -> Nanoseconds:
        found = np.empty(count, np.int64)
        for k in range(count):
            before = clock()
            step(k)
            found[k] = clock() - before
        return found

    return sample


def torch_engine(subject: Subject, bench: Bench) -> Sampler:
    """Step in eager PyTorch, without gradients."""
    import torch

    from kd_offline.evaluation.torch_steps import actor_step, exported_step

    step, memory = (
        actor_step(subject.actor, bench.batch)
        if subject.network is None
        else exported_step(subject.network, bench.batch)
    )
    obs = [torch.from_numpy(x) for x in bench.observations(subject.inputs)]
    legal = torch.ones(bench.batch, subject.actions, dtype=torch.bool)
    kept = [memory]

    def once(k: int) -> None:
        _, kept[0] = step(obs[k % OBSERVATIONS], legal, kept[0])

    sampler = timed(once)

    def sample(count: int) -> Nanoseconds:
        with torch.inference_mode():
            return sampler(count)

    return sample


def numpy_engine(subject: Subject, bench: Bench) -> Sampler:
    """Step in NumPy."""
    from kd_offline.exports.engines import numpy_steps

    network, contract = _exported(subject)
    return _stepped(numpy_steps([network])[0], contract, bench)


def onnx_engine(subject: Subject, bench: Bench) -> Sampler:
    """Step in ONNX Runtime."""
    from kd_offline.exports import onnx_graph

    network, contract = _exported(subject)
    path = bench.folder / f"{contract.symbol}.onnx"
    onnx_graph.write(path, network, {})
    return _stepped(onnx_graph.step(path), contract, bench)


def c_engine(subject: Subject, bench: Bench) -> Sampler:
    """Step in our C, timed by a loop that is compiled, too; rows one after the other."""
    _, contract = _exported(subject)
    act = _compiled(subject, bench)
    loop = _timing(bench.folder).kd_time_steps
    obs = bench.observations(contract.inputs)
    legal = np.ones(len(contract.actions), np.uint8)
    memory = np.zeros((bench.batch, contract.memory_width), np.float32)
    logits = np.zeros(len(contract.actions), np.float32)
    loop.restype = None
    address, number = ctypes.c_void_p, ctypes.c_int
    kinds: list[Any] = [address, ctypes.c_int64, address, number, number]
    loop.argtypes = [*kinds, address, number, address, address, number, address]

    def sample(count: int) -> Nanoseconds:
        found = np.empty(count, np.int64)
        given = (found.ctypes.data, bench.batch, OBSERVATIONS, obs.ctypes.data, contract.inputs)
        kept = (legal.ctypes.data, memory.ctypes.data, contract.memory_width, logits.ctypes.data)
        loop(act, count, *given, *kept)
        return found

    return sample


def ctypes_engine(subject: Subject, bench: Bench) -> Sampler:
    """Step in our C, called from Python; rows one after the other."""
    _, contract = _exported(subject)
    act = _compiled(subject, bench)
    act.restype, act.argtypes = ctypes.c_int, [ctypes.c_void_p] * 4
    obs = bench.observations(contract.inputs)
    legal = np.ones(len(contract.actions), np.uint8)
    memory = np.zeros((bench.batch, contract.memory_width), np.float32)
    logits = np.zeros(len(contract.actions), np.float32)
    given = [[row.ctypes.data for row in rows] for rows in obs]
    kept, beside = [row.ctypes.data for row in memory], (legal.ctypes.data, logits.ctypes.data)
    held = (obs, legal, memory, logits)  # addresses alone keep nothing alive

    def once(k: int) -> None:
        for row, state in zip(given[k % len(held[0])], kept, strict=True):
            act(row, beside[0], state, beside[1])

    return timed(once)


ENGINES: dict[str, Callable[[Subject, Bench], Sampler]] = {
    "torch": torch_engine,
    "onnx": onnx_engine,
    "c": c_engine,
    "c-ctypes": ctypes_engine,
    "numpy": numpy_engine,
}
"""Name of an engine -> what makes a sampler; modules of another library run in ``torch`` alone."""


def sampler(name: str, subject: Subject, bench: Bench) -> Sampler:
    """Return the sampler of an engine.

    Raises
    ------
    KdOfflineError
        The engine cannot run here, or cannot run this network; the sentence says why.
    """
    return ENGINES[name](subject, bench)


def compiler() -> str | None:
    """Return the first line of what the C compiler says of itself; None where there is none."""
    try:
        done = subprocess.run(
            ["cc", "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0]


def _exported(subject: Subject) -> tuple[AgentNetwork, AgentContract]:
    if subject.network is None or subject.contract is None:
        msg = "an expert is not exported: only torch runs it"
        raise MismatchError(msg)
    return subject.network, subject.contract


def _stepped(step: Step, contract: AgentContract, bench: Bench) -> Sampler:
    obs = bench.observations(contract.inputs)
    legal = np.ones((bench.batch, len(contract.actions)), bool)
    kept = [np.zeros((bench.batch, contract.memory_width), np.float32)]

    def once(k: int) -> None:
        _, _, kept[0] = step(obs[k % OBSERVATIONS], legal, kept[0])

    return timed(once)


def _compiled(subject: Subject, bench: Bench) -> Any:
    """Write and compile the C of an agent, once, and return its step."""
    from kd_offline.exports import c_library, c_source
    from kd_offline.exports.vectors import Vectors

    network, contract = _exported(subject)
    folder = bench.folder / contract.symbol
    library = folder / "build" / "libstudents.so"
    if not library.exists():
        folder.mkdir(exist_ok=True)
        rows = {"inputs": contract.inputs, "actions": len(contract.actions)}
        nothing = Vectors(
            np.zeros((1, rows["inputs"]), np.float32),
            np.ones((1, rows["actions"]), bool),
            np.full(1, -1, np.int64),
            np.zeros(1, np.int64),
            np.zeros((1, rows["actions"]), np.float32),
        )
        c_source.write(folder, [network], [contract], [nothing], 1e-4, "for timing")
        library.parent.mkdir(exist_ok=True)
        c_library.compile_library(folder, [contract.symbol], library)
    return getattr(ctypes.CDLL(str(library.resolve())), f"{contract.symbol}_act")


def _timing(folder: Path) -> ctypes.CDLL:
    """Compile the loop that times steps."""
    library = folder / "timing.so"
    if not library.exists():
        source = Path(__file__).with_name("timing.c")
        command = ["cc", "-std=c99", "-O2", "-fPIC", "-shared", "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            msg = f"the C compiler failed on the timing loop: {last}; check cc"
            raise KdOfflineError(msg)
    return ctypes.CDLL(str(library.resolve()))
