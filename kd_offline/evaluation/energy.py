"""Energy read from a meter, where this machine has one; otherwise the reason why there is none.

The meter is zeus (You et al., NSDI 2023), which reads RAPL on x86 and the power rails of Jetson
boards, and gives nothing where there is nothing to read, as in virtual machines. What it reads is
the whole processor, idle power and other processes included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kd_offline.errors import MissingExtraError
from kd_offline.evaluation.engines import Sampler
from kd_offline.schemas.hardware import MeasuredEnergy, UnavailableEnergy

WINDOW_SECONDS = 2.0
"""Of one measurement: RAPL counts in milliseconds, Jetson's rails are polled ten times a second."""

_BURST = 64
NOT_ASKED = UnavailableEnergy(reason="not measured: pass --energy where the machine has a meter")

Meter = Callable[[Sampler, float], MeasuredEnergy | UnavailableEnergy]


def meter() -> Meter | UnavailableEnergy:
    """Return what measures the energy of a step, or why nothing does.

    Raises
    ------
    MissingExtraError
        zeus is not installed.
    """
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError as error:
        if getattr(error, "name", "") not in ("zeus", "zeus.monitor"):
            return _broken(error)
        raise MissingExtraError(
            library="zeus", extra="energy", purpose="measuring energy"
        ) from None
    except Exception as error:  # the libraries for GPUs that it asks fail in ways of their own
        return _broken(error)
    try:
        # Our steps run on the processor; a GPU would only be waited for.
        monitor = ZeusMonitor(gpu_indices=[])
    except Exception as error:
        return _broken(error)
    return lambda sample, seconds: _measured(monitor, sample, seconds)


def _measured(monitor: Any, sample: Sampler, seconds: float) -> MeasuredEnergy | UnavailableEnergy:
    """Run steps for a while between two readings."""
    steps, spent = 0, 0
    monitor.begin_window("kd-offline", sync_execution=False)
    while spent < 1e9 * seconds:
        found = sample(_BURST)
        steps, spent = steps + len(found), spent + int(found.sum())
    window = monitor.end_window("kd-offline", sync_execution=False)
    joules, parts = _joules(window)
    if not parts or joules <= 0:
        return UnavailableEnergy(reason="zeus finds no meter on this machine")
    return MeasuredEnergy(
        microjoules=1e6 * joules / steps,
        meter="zeus",
        parts=parts,
        seconds=window.time,
        steps=steps,
    )


def _joules(window: Any) -> tuple[float, tuple[str, ...]]:
    """Return the processor's energy in a window, and which parts the meter covers."""
    packages = getattr(window, "cpu_energy", None) or {}
    if packages:
        return sum(packages.values()), tuple(f"processor package {k}" for k in packages)
    board = getattr(getattr(window, "soc_energy", None), "cpu_energy_mj", None)
    return (0.0, ()) if board is None else (board / 1e3, ("processor rail",))


def _broken(error: Exception) -> UnavailableEnergy:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return UnavailableEnergy(reason=f"zeus cannot be used here: {type(error).__name__}: {reason}")
