"""What an exported C step costs on a microcontroller: flash, static RAM and instruction counts.

Nothing is timed. Sizes are those of a linked firmware that does nothing but step one agent.
Instructions are counted by QEMU, which runs the self-test on an emulated board and lets SysTick
advance by one tick in 40 instructions; an emulator knows nothing of cycles or wait states.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from kd_offline.errors import UsageError
from kd_offline.exports.c_library import BuildError, make, require
from kd_offline.files import temporary_folder
from kd_offline.schemas.export import Core

CORES = {"Cortex-M4F": "cortex-m4", "Cortex-M7": "cortex-m7"}
"""Name of a core -> the same in the Makefile."""

INSTRUCTIONS_PER_TICK = 40
"""An instruction takes a nanosecond at ``-icount shift=0``, and both boards run at 25 MHz."""

FLAGS = "-Os"

_LINE = re.compile(r"^(agent|failures|steps|timed|ticks) (\S+)$", re.MULTILINE)


def measure(
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
    for name, value in re.findall(
        r"^(agent|failures|steps|timed|ticks) (\S+)$", said, re.MULTILINE
    ):
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
