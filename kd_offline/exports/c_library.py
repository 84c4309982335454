"""Build and run exported C: by its Makefile, on emulated microcontrollers, and by ctypes.

An export may come from a stranger. Its Makefile is for people who know whose it is: :func:`steps`
never runs it, but compiles the C files that it is told of by a command of its own. What it compiles
is run, though, so it is for exports that one trusts.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kd_offline.errors import KdOfflineError, UsageError
from kd_offline.exports.network import Step
from kd_offline.files import temporary_folder
from kd_offline.schemas.export import AgentContract, Core
from kd_offline.types import Array, BoolArray, Float32Array, IntArray

PACKAGES = {
    "cc": "gcc",
    "gcc": "gcc",
    "clang": "clang",
    "make": "make",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi and libnewlib-arm-none-eabi",
    "arm-none-eabi-size": "binutils-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
"""Tool -> the Debian package that has it."""


TIMEOUT_S = 600.0
"""Longest that building and running an export may take."""

CORES = {"Cortex-M4F": "cortex-m4", "Cortex-M7": "cortex-m7"}
"""Name of a core -> the same in the Makefile."""

INSTRUCTIONS_PER_TICK = 40
"""An instruction takes a nanosecond at ``-icount shift=0``, and both boards run at 25 MHz."""

FLAGS = "-Os"

_LINE = re.compile(r"^(agent|failures|steps|timed|ticks) (\S+)$", re.MULTILINE)


class BuildError(KdOfflineError):
    """Exported C did not build, or its self-test failed."""


def require(*tools: str) -> None:
    """Raise an error if a tool is missing.

    Raises
    ------
    UsageError
        It is not on the path; the sentence names the Debian package.
    """
    for tool in tools:
        if shutil.which(tool) is None:
            msg = (
                f"{tool} is not installed, and exported C cannot be built and run without it: "
                f"install the Debian package {PACKAGES.get(tool, tool)}"
            )
            raise UsageError(msg)


def make(folder: Path, target: str, build: Path, **variables: str) -> str:
    """Run a target of a Makefile that was just exported here, with its results in ``build``.

    Returns what it said. The folder must be of our own making: a Makefile runs any program.

    Raises
    ------
    UsageError
        There is no make.
    BuildError
        It failed, or took longer than :data:`TIMEOUT_S`.
    """
    require("make")
    settings = [f"{name}={value}" for name, value in variables.items()]
    words = ["make", "--no-print-directory", "-C", str(folder), "-f", "Makefile", target]
    return _run([*words, f"BUILD={build}", *settings], f"make {target}", folder)


def compile_library(
    folder: Path, symbols: Sequence[str], library: Path, *, cflags: str = "-O3"
) -> None:
    """Compile ``<symbol>.c`` of every agent in ``folder`` into one shared library.

    Flags are those of the exported Makefile's target ``shared``, so that the bits are the same.

    Raises
    ------
    UsageError, BuildError
        There is no compiler, or it fails.
    """
    require("cc")
    strict = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    sources = [str(folder.resolve() / f"{symbol}.c") for symbol in symbols]
    shared = ["-fPIC", "-shared", "-o", str(library)]
    _run(["cc", *strict, *cflags.split(), *shared, *sources, "-lm"], "the C compiler", folder)


def _run(words: Sequence[str], what: str, folder: Path) -> str:
    """Run a program that builds in ``folder`` and return what it said."""
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            msg = f"{what} in {str(folder)!r} was stopped after {TIMEOUT_S:,.0f} s"
            raise BuildError(msg) from error
        except BaseException:  # Ctrl-C too: make would leave what it started behind
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        last = " | ".join(said.strip().splitlines()[-12:])
        msg = f"{what} failed in {str(folder)!r}: {last}; export it again"
        raise BuildError(msg)
    return said


def steps(
    folder: Path, agents: Sequence[AgentContract], *, cflags: str = "-O3"
) -> tuple[Step, ...]:
    """Compile the C files of an export as a library and return the step of every agent.

    Parameters
    ----------
    folder : path
        With a ``<symbol>.c`` of every agent. What else is there is not run, see the module.
    agents : sequence of AgentContract
    cflags : str
        For the optimiser.

    Raises
    ------
    UsageError, BuildError
        There is no compiler, or it fails.
    """
    with temporary_folder() as build:  # a library that is loaded needs its file no more
        file = build / "libstudents.so"
        compile_library(folder, [agent.symbol for agent in agents], file, cflags=cflags)
        library = ctypes.CDLL(str(file))
    return tuple(_step(library, agent) for agent in agents)


def _step(library: ctypes.CDLL, agent: AgentContract) -> Step:
    """Return the step of one agent, which goes through the rows one by one."""
    act = getattr(library, f"{agent.symbol}_act")
    act.restype = ctypes.c_int
    act.argtypes = [ctypes.c_void_p] * 4
    actions = len(agent.actions)

    def step(
        obs: Float32Array, legal: BoolArray, memory: Float32Array
    ) -> tuple[IntArray, Float32Array, Float32Array]:
        rows = len(memory)
        logits, after = np.empty((rows, actions), np.float32), memory.astype(np.float32)
        given = (np.ascontiguousarray(obs, np.float32), np.ascontiguousarray(legal, np.uint8))
        every: tuple[Array, ...] = (*given, after, logits)
        chosen = [act(*addresses) for addresses in zip(*map(_rows, every), strict=True)]
        return np.array(chosen, np.int64), logits, after

    return step


def _rows(values: Array) -> range | list[int]:
    """Return the address of every row."""
    size, start = values.strides[0], values.ctypes.data
    return range(start, start + size * len(values), size) if size else [start] * len(values)


def measure_on_cores(
    folder: str | Path, cores: Sequence[str] = tuple(CORES), *, flags: str = FLAGS
) -> tuple[Core, ...]:
    """Build and run an exported C folder for microcontrollers and return what every agent costs.

    Parameters
    ----------
    folder : path
        The folder ``c`` of an export.
    cores : sequence of str
        Keys of :data:`CORES`.
    flags : str
        Of the cross compiler, beside those that name the core.

    Raises
    ------
    UsageError
        A tool is not installed, or a core is not known.
    BuildError
        The code does not build, or gives other answers than recorded.
    """
    require("make", "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
    if unknown := [core for core in cores if core not in CORES]:
        msg = f"unknown core {unknown[0]!r}: allowed are {', '.join(CORES)}"
        raise UsageError(msg)
    with temporary_folder() as build:
        return tuple(found for core in cores for found in _core(Path(folder), core, build, flags))


def _core(folder: Path, core: str, build: Path, flags: str) -> Iterator[Core]:
    settings = {"CORE": CORES[core], "ARM_CFLAGS": flags}
    make(folder, "bare", build, **settings)
    said = make(folder, "emulate", build, **settings)
    for symbol, counts in _counts(said).items():
        if counts["failures"]:
            msg = f"{symbol} fails {counts['failures']} of {counts['steps']} steps on a {core}"
            raise BuildError(msg)
        flash, ram = _sizes(build / CORES[core] / f"{symbol}.bare.elf")
        yield Core(
            symbol=symbol,
            core=core,
            flash_bytes=flash,
            ram_bytes=ram,
            instructions_per_step=INSTRUCTIONS_PER_TICK * counts["ticks"] / counts["timed"],
            flags=flags,
        )


def _counts(said: str) -> dict[str, dict[str, int]]:
    """Read what the emulated self-tests printed: symbol -> name -> number."""
    found: dict[str, dict[str, int]] = {}
    for name, value in _LINE.findall(said):
        if name == "agent":
            found[value] = {}
        else:
            found[next(reversed(found))][name] = int(value)
    return found


def _sizes(image: Path) -> tuple[int, int]:
    """Return bytes of flash and of static RAM of a linked image."""
    done = subprocess.run(
        ["arm-none-eabi-size", str(image)], capture_output=True, text=True, check=True, timeout=60
    )
    text, data, bss = map(int, done.stdout.splitlines()[1].split()[:3])
    return text + data, data + bss
