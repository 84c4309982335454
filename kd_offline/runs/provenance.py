"""Describe software, code revision and machine of a result, without host names, users or paths."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import kd_offline
from kd_offline.schemas.run import Machine, Provenance

_PACKAGES = (
    "numpy",
    "torch",
    "zarr",
    "numcodecs",
    "zstandard",
    "pydantic",
    "safetensors",
    "mpe2",
    "pettingzoo",
)


def provenance(*, device: str = "cpu") -> Provenance:
    """Return the software and machine of this process.

    CPU capability and threads of PyTorch are included only if it is already imported.
    """
    revision, modified = _revision()
    capability, threads = _torch_settings()
    return Provenance(
        kd_offline=kd_offline.__version__,
        python=platform.python_version(),
        packages={
            name: installed for name in _PACKAGES if (installed := _version(name)) is not None
        },
        git_revision=revision,
        git_modified=modified,
        cpu_capability=capability,
        threads=threads,
        device=device,
        machine=machine(),
    )


def machine() -> Machine:
    """Return system, processor, cores and memory of this machine."""
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
    )


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_settings() -> tuple[str | None, int | None]:
    torch = sys.modules.get("torch")
    if torch is None:
        return None, None
    return str(torch.backends.cpu.get_cpu_capability()), int(torch.get_num_threads())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


@cache
def _revision() -> tuple[str | None, bool | None]:
    """Return the git revision and whether it is modified, if imported from a checkout.

    It is looked at once in a process, whose modules stay as they were imported.
    """
    root = Path(kd_offline.__file__).parents[1]
    if not (root / ".git").exists():
        return None, None
    head = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "kd_offline")
    return head or None, None if changes is None else bool(changes)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        process = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()
