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
import torch
from torch import Tensor
from torch.nn.functional import linear

from kd_offline.errors import KdOfflineError, MismatchError
from kd_offline.exports.network import EPSILON, Affine, AgentNetwork, Chain
from kd_offline.types import Array, Float32Array

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


TorchStep = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(obs [B, I], legal [B, A], memory) -> (action [B], memory)``."""


def actor_step(actor: Any, batch: int) -> tuple[TorchStep, Tensor]:
    """Return the step of another library's actor and its memory of fresh episodes."""

    def step(obs: Tensor, legal: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        out, _, memory = actor(obs, memory)
        return _greedy(out, legal), memory

    return step, actor.start(batch)


def exported_step(network: AgentNetwork, batch: int) -> tuple[TorchStep, Tensor]:
    """Return the step of an exported network with PyTorch's operators, and its memory."""
    return ExportedStep(network, batch), torch.zeros(batch, network.memory_width)


class ExportedStep:
    """An exported network, called operator by operator.

    A step of so small a network is nothing but calls, so modules, which are calls of their own, are
    left out, and what does not change from step to step is made before the first.
    """

    def __init__(self, network: AgentNetwork, batch: int) -> None:
        self.facts, self.count = network, len(network.seen)
        self.centre, self.scale = _tensor(network.centre), _tensor(network.scale)
        self.motion = None if network.motion is None else _tensor(network.motion)
        self.trunk = [(*_affine(layer), [len(layer.bias)]) for layer in network.trunk]
        self.gru = None if network.gru is None else _flat(*network.gru)
        self.head = _affine(network.head)
        self.names = list(network.memory)
        self.sizes = [stop - start for start, stop in network.memory.values()]
        self.started = torch.ones(batch, 1)
        self.choices = torch.eye(network.actions)

    def __call__(self, obs: Tensor, legal: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Decide once for every row; as ``AgentNetwork.step`` does in NumPy."""
        kept = self._parts(memory)
        now: dict[str, Tensor] = {}
        x = self._inputs(obs, kept, now)
        for weight, bias, shape in self.trunk:
            x = torch.layer_norm(torch.relu_(linear(x, weight, bias)), shape, eps=EPSILON)
        if self.gru is not None:
            x = now["gru"] = torch.gru_cell(x, kept["gru"], *self.gru)
        action = _greedy(linear(x, *self.head), legal)
        if self.facts.last_action:
            now["last_action"] = self.choices.index_select(0, action)
        if len(now) > 1:
            return action, torch.cat([now[name] for name in self.names], 1)
        return action, now.popitem()[1] if now else memory

    def _parts(self, memory: Tensor) -> dict[str, Tensor]:
        """Return the parts of the memory by name."""
        if len(self.names) < 2:
            return dict.fromkeys(self.names, memory)
        parts = memory.split_with_sizes(self.sizes, 1)
        return dict(zip(self.names, parts, strict=True))

    def _inputs(self, obs: Tensor, kept: dict[str, Tensor], now: dict[str, Tensor]) -> Tensor:
        """Return what the first matrix takes, and put the memory of it into ``now``."""
        facts, bits = self.facts, None
        if facts.drawn:
            obs, bits = obs.split(self.count, 1)  # type: ignore[no-untyped-call]
        x = (obs - self.centre) * self.scale
        x = x if bits is None else x * bits
        parts = [x] if bits is None or not facts.mask_input else [x, bits]
        if self.motion is not None:
            parts.append((x - kept["previous"]) * self.motion * kept["started"])
            now |= {"previous": x, "started": self.started}
        if facts.last_action:
            parts.append(kept["last_action"])
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _greedy(logits: Tensor, legal: Tensor) -> Tensor:
    return torch.where(legal, logits, -torch.inf).argmax(-1)


def _affine(affine: Affine) -> tuple[Tensor, Tensor]:
    return _tensor(affine.values), _tensor(affine.bias)


def _flat(ours: Chain, theirs: Chain) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights and biases in the order of ``torch.gru_cell``, which knows full matrices."""
    mine, other = _affine(_product(ours)), _affine(_product(theirs))
    return mine[0], other[0], mine[1], other[1]


def _product(chain: Chain) -> Affine:
    if len(chain) == 1:
        return chain[0]
    thin, wide = chain
    return Affine(wide.values @ thin.values, wide(thin.bias))


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(values)
