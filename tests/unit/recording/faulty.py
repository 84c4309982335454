"""An environment and an expert that fail on request, as the code of users does."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import typer
from gymnasium import spaces
from pettingzoo import ParallelEnv

from kd_offline.errors import UsageError
from kd_offline.types import PolicyOutput

RAISED: dict[str, Any] = {
    "value": lambda: ValueError("first\nsecond"),
    "exit": lambda: SystemExit(0),
    "generator": GeneratorExit,
    "stop": StopIteration,
    "pipe": lambda: BrokenPipeError(32, "Broken pipe"),
    "full": lambda: OSError(28, "No space left on device"),
    "typer": lambda: typer.Exit(0),
    "abort": typer.Abort,
    "click": lambda: click.exceptions.Exit(0),
    "usage": lambda: click.UsageError("not yours"),
    "ours": lambda: UsageError("not ours"),
    "bare": lambda: BaseException("bare"),
    "memory": MemoryError,
    "escape": lambda: ValueError("\x1b[2J" + "long" * 10_000),
}


class Faulty(ParallelEnv):  # type: ignore[misc]
    """Two agents, one feature, two actions; it counts the steps of all episodes of one instance."""

    metadata = {"name": "faulty_v0"}  # noqa: RUF012
    made = 0

    def __init__(self, call="", fault="", seed_of_fault=-1, size=1.0, max_cycles=4, note=""):
        self.possible_agents = self.agents = ["first", "second"]
        self.call, self.fault, self.seed_of_fault = call, fault, seed_of_fault
        self.size, self.max_cycles, self.seed = size, max_cycles, -1
        Faulty.made += 1
        self._fail("init")

    def observation_space(self, agent):
        self._fail("spaces")
        return spaces.Box(-np.inf, np.inf, (1,))

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.seed, self.steps = seed, 0
        np.random.seed(seed % 1000)  # noqa: NPY002 - what environments of others do
        self.agents = self.possible_agents[:]
        self._fail("reset")
        return self._seen(), {a: {} for a in self.agents}

    def step(self, actions):
        self.steps += 1
        if self.steps == 3:
            self._fail("step")
        acting, over = self.agents, self.steps >= self.max_cycles
        self.agents = [] if over else acting
        reward = self.size * (1 + actions["first"])
        rewards = dict.fromkeys(acting, -reward if self.steps % 2 else reward)
        ends = dict.fromkeys(acting, False)
        return self._seen(), rewards, ends, dict.fromkeys(acting, over), {a: {} for a in acting}

    def close(self):
        self._fail("close")

    def _seen(self):
        value = self.size * (-1) ** self.steps * (1 + (self.seed or 0) % 7) / 7
        return {a: np.full(1, value, np.float32) for a in self.possible_agents}

    def _fail(self, call):
        if call == self.call and self.seed_of_fault in (-1, self.seed):
            raise RAISED[self.fault]()


class Expert:
    """Does what it sees."""

    parameters, macs = 0, 0

    def start(self, seeds):
        return 0

    def act(self, view, memory):
        logits = np.zeros(view.available_actions.shape, np.float32)
        logits[..., 0] = np.tanh(view.obs[..., 0])
        value = np.asarray(view.obs[..., 0], np.float32)
        return PolicyOutput(logits, embedding=logits[..., :1], value=value), memory + 1


def parallel_env(**settings):
    return Faulty(**settings)


class Noting(Faulty):
    """Writes to a file of its process in a folder when it is made, and when it is closed."""

    def __init__(self, note):
        super().__init__()
        self.file = Path(note, str(os.getpid()))
        self._write("made ")

    def close(self):
        self._write("closed ")

    def _write(self, word):
        with self.file.open("a") as file:
            file.write(word)


def noting_env(**settings):
    return Noting(**settings)


class Helped(Faulty):
    """Starts a process and a thread that do not end, and forgets them, but in one process."""

    def __init__(self, note, parent):
        super().__init__()
        if os.getpid() == parent:
            return
        helper = subprocess.Popen(["sleep", "600"])
        threading.Thread(target=time.sleep, args=(600,)).start()
        Path(note, str(helper.pid)).touch()


def helped_env(**settings):
    return Helped(**settings)


def expert(spec):
    return Expert()


class Silent(Expert):
    """Says no value."""

    def act(self, view, memory):
        output, memory = super().act(view, memory)
        return PolicyOutput(output.logits, embedding=output.embedding), memory


def silent(spec):
    return Silent()


def dying(spec):
    os._exit(0)
