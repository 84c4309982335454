"""Engines that time one step of one agent's network: PyTorch, ONNX Runtime, C and NumPy.

A sampler runs a number of steps and returns the nanoseconds of each. The hidden state of a step is
the input of the next one. All engines get the same observations and action masks, in the data types
that they take. A step scales the inputs, runs the network and takes the masked argmax. Expert and
student run through the same code of an engine, so their times differ by their networks alone. An
expert of another library is run by its own modules, on inputs that were prepared beforehand.
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
from kd_offline.exports.network import AgentNetwork
from kd_offline.networks.deployed import EPSILON, Affine
from kd_offline.types import Array, Float32Array

if TYPE_CHECKING:
    from kd_offline.exports.network import AgentNetwork, Step
    from kd_offline.schemas.export import AgentContract

Nanoseconds = npt.NDArray[np.int64]
Sampler = Callable[[int], Nanoseconds]
OBSERVATIONS = 16
"""Number of different observations that the steps cycle through."""


@dataclass(frozen=True, slots=True)
class LatencyTarget:
    """A network to be timed, with what the engines need to build its step.

    ``network`` and ``contract`` describe a network that can be exported. An expert of another
    library has ``actor`` instead: a module with ``start(B)``, which returns the initial hidden
    state, and a call ``(inputs [B, I], hidden state) -> (logits, embedding, hidden state)``.
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
class EngineSettings:
    """Settings of an engine's step: batch size, folder for compiled C, seed of the observations."""

    batch: int
    folder: Path
    seed: int = 0

    def observations(self, inputs: int) -> Float32Array:
        """Return standard normal observations, float32 [K, B, I]."""
        from kd_offline.seeding import generator

        shape = (OBSERVATIONS, self.batch, inputs)
        return generator(self.seed, "latency").standard_normal(shape).astype(np.float32)


def timed(step: Callable[[int], object]) -> Sampler:
    """Return a sampler of ``step``, which is called with the index of the step."""
    clock = time.perf_counter_ns

    def sample(count: int) -> Nanoseconds:
        times = np.empty(count, np.int64)
        for index in range(count):
            started = clock()
            step(index)
            times[index] = clock() - started
        return times

    return sample


def torch_engine(target: LatencyTarget, settings: EngineSettings) -> Sampler:
    """Return a sampler of steps in eager PyTorch, without gradients."""
    import torch

    step, initial_state = (
        actor_step(target.actor, settings.batch)
        if target.network is None
        else exported_step(target.network, settings.batch)
    )
    obs = [torch.from_numpy(x) for x in settings.observations(target.inputs)]
    legal = torch.ones(settings.batch, target.actions, dtype=torch.bool)
    state = [initial_state]  # a list, so that the closure can replace its element

    def once(k: int) -> None:
        _, state[0] = step(obs[k % OBSERVATIONS], legal, state[0])

    sampler = timed(once)

    def sample(count: int) -> Nanoseconds:
        with torch.inference_mode():
            return sampler(count)

    return sample


def numpy_engine(target: LatencyTarget, settings: EngineSettings) -> Sampler:
    """Return a sampler of steps in NumPy."""
    from kd_offline.exports.engines import numpy_steps

    network, contract = _network_and_contract(target)
    return _stepped(numpy_steps([network])[0], contract, settings)


def onnx_engine(target: LatencyTarget, settings: EngineSettings) -> Sampler:
    """Return a sampler of steps in ONNX Runtime."""
    from kd_offline.exports import onnx_graph

    network, contract = _network_and_contract(target)
    path = settings.folder / f"{contract.symbol}.onnx"
    onnx_graph.write(path, network, {})
    return _stepped(onnx_graph.step(path), contract, settings)


def c_engine(target: LatencyTarget, settings: EngineSettings) -> Sampler:
    """Return a sampler of steps in the exported C, timed by a compiled loop.

    The rows of a batch run one after the other.
    """
    _, contract = _network_and_contract(target)
    act = _compiled(target, settings)
    loop = _timing(settings.folder).kd_time_steps
    obs = settings.observations(contract.inputs)
    legal = np.ones(len(contract.actions), np.uint8)
    memory = np.zeros((settings.batch, contract.memory_width), np.float32)
    logits = np.zeros(len(contract.actions), np.float32)
    loop.restype = None
    address, integer = ctypes.c_void_p, ctypes.c_int
    types: list[Any] = [address, ctypes.c_int64, address, integer, integer]
    loop.argtypes = [*types, address, integer, address, address, integer, address]

    def sample(count: int) -> Nanoseconds:
        times = np.empty(count, np.int64)
        inputs = (times.ctypes.data, settings.batch, OBSERVATIONS, obs.ctypes.data, contract.inputs)
        outputs = (legal.ctypes.data, memory.ctypes.data, contract.memory_width, logits.ctypes.data)
        loop(act, count, *inputs, *outputs)
        return times

    return sample


def ctypes_engine(target: LatencyTarget, settings: EngineSettings) -> Sampler:
    """Return a sampler of steps in the exported C, called from Python through ctypes.

    The rows of a batch run one after the other.
    """
    _, contract = _network_and_contract(target)
    act = _compiled(target, settings)
    act.restype, act.argtypes = ctypes.c_int, [ctypes.c_void_p] * 4
    obs = settings.observations(contract.inputs)
    legal = np.ones(len(contract.actions), np.uint8)
    memory = np.zeros((settings.batch, contract.memory_width), np.float32)
    logits = np.zeros(len(contract.actions), np.float32)
    observation_addresses = [[row.ctypes.data for row in rows] for rows in obs]
    memory_addresses = [row.ctypes.data for row in memory]
    mask_address, logits_address = legal.ctypes.data, logits.ctypes.data
    arrays = (obs, legal, memory, logits)  # addresses alone keep nothing alive

    def once(k: int) -> None:
        rows = observation_addresses[k % len(arrays[0])]
        for row, state in zip(rows, memory_addresses, strict=True):
            act(row, mask_address, state, logits_address)

    return timed(once)


ENGINES: dict[str, Callable[[LatencyTarget, EngineSettings], Sampler]] = {
    "torch": torch_engine,
    "onnx": onnx_engine,
    "c": c_engine,
    "c-ctypes": ctypes_engine,
    "numpy": numpy_engine,
}
"""Engine name -> function that makes a sampler. Other libraries' modules run in ``torch`` only."""


def sampler(name: str, target: LatencyTarget, settings: EngineSettings) -> Sampler:
    """Return the sampler of an engine.

    Raises
    ------
    KdOfflineError
        The engine cannot run here, or cannot run this network; the sentence says why.
    """
    return ENGINES[name](target, settings)


def compiler() -> str | None:
    """Return the first line of ``cc --version``; None without a C compiler."""
    try:
        process = subprocess.run(
            ["cc", "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.splitlines()[0]


def _network_and_contract(target: LatencyTarget) -> tuple[AgentNetwork, AgentContract]:
    if target.network is None or target.contract is None:
        msg = "an expert is not exported: only torch runs it"
        raise MismatchError(msg)
    return target.network, target.contract


def _stepped(step: Step, contract: AgentContract, settings: EngineSettings) -> Sampler:
    obs = settings.observations(contract.inputs)
    legal = np.ones((settings.batch, len(contract.actions)), bool)
    state = [np.zeros((settings.batch, contract.memory_width), np.float32)]

    def once(k: int) -> None:
        _, _, state[0] = step(obs[k % OBSERVATIONS], legal, state[0])

    return timed(once)


def _compiled(target: LatencyTarget, settings: EngineSettings) -> Any:
    """Write and compile the C of an agent, unless it is there already; return its step function."""
    from kd_offline.exports import c_library, c_source
    from kd_offline.exports.vectors import Vectors

    network, contract = _network_and_contract(target)
    folder = settings.folder / contract.symbol
    library = folder / "build" / "libstudents.so"
    if not library.exists():
        folder.mkdir(exist_ok=True)
        sizes = {"inputs": contract.inputs, "actions": len(contract.actions)}
        dummy_vectors = Vectors(
            np.zeros((1, sizes["inputs"]), np.float32),
            np.ones((1, sizes["actions"]), bool),
            np.full(1, -1, np.int64),
            np.zeros(1, np.int64),
            np.zeros((1, sizes["actions"]), np.float32),
        )
        c_source.write(folder, [network], [contract], [dummy_vectors], 1e-4, "for timing")
        library.parent.mkdir(exist_ok=True)
        c_library.compile_library(folder, [contract.symbol], library)
    return getattr(ctypes.CDLL(str(library.resolve())), f"{contract.symbol}_act")


def _timing(folder: Path) -> ctypes.CDLL:
    """Compile and load ``timing.c``, the loop that times steps."""
    library = folder / "timing.so"
    if not library.exists():
        source = Path(__file__).with_name("timing.c")
        command = ["cc", "-std=c99", "-O2", "-fPIC", "-shared", "-o", str(library), str(source)]
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if process.returncode:
            last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
            msg = f"the C compiler failed on the timing loop: {last_line}; check cc"
            raise KdOfflineError(msg)
    return ctypes.CDLL(str(library.resolve()))


TorchStep = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(obs [B, I], legal [B, A], memory) -> (action [B], memory)``."""


def actor_step(actor: Any, batch: int) -> tuple[TorchStep, Tensor]:
    """Return the step of another library's actor and its initial hidden state."""

    def step(obs: Tensor, legal: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        out, _, memory = actor(obs, memory)
        return _greedy(out, legal), memory

    return step, actor.start(batch)


def exported_step(network: AgentNetwork, batch: int) -> tuple[TorchStep, Tensor]:
    """Return the step of an exported network in PyTorch, and its initial hidden state."""
    return ExportedStep(network, batch), torch.zeros(batch, network.memory_width)


class ExportedStep:
    """Step of an exported network as a sequence of PyTorch operators.

    The cost of so small a network is mostly the overhead of calls. The step therefore calls no
    modules, and everything that does not change between steps is computed in the constructor.
    """

    def __init__(self, network: AgentNetwork, batch: int) -> None:
        self.facts, self.count = network, len(network.seen)
        self.centre, self.scale = _tensor(network.centre), _tensor(network.scale)
        self.motion = None if network.motion is None else _tensor(network.motion)
        self.trunk = [(*_affine(layer), [len(layer.bias)]) for layer in network.trunk]
        self.cell = None if network.cell is None else network.cell.torch_step()
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
        if self.cell is not None:
            name = self.names[0]
            x = now[name] = self.cell(x, kept[name])
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


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(values)
