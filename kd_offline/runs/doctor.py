"""``doctor``: list what is installed, what is missing, and how to install it."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module, metadata
from importlib.resources import files

from kd_offline.environments.smac.installation import look
from kd_offline.runs.provenance import provenance
from kd_offline.schemas.outputs import DoctorReport, Extra

EXTRAS = {
    "convert": ("h5py", "tensorstore"),
    "energy": ("zeus",),
    "onnx": ("onnx", "onnxruntime"),
    "pettingzoo": ("pettingzoo", "mpe2"),
    "postgresql": ("psycopg",),
    "ray": ("ray",),
    "report": ("jinja2", "matplotlib"),
    "share": ("cryptography", "huggingface-hub", "obstore"),
    "smax": ("jaxmarl",),
    "sweep": ("optuna",),
    "torch": ("torch",),
    "track": ("mlflow-skinny", "tensorboard", "wandb"),
    "xarray": ("xarray",),
}


def examine() -> DoctorReport:
    """Return a report on this installation; imports PyTorch to ask for the CPU capability."""
    with suppress(ImportError):
        import_module("torch")
    installation = provenance()
    return DoctorReport(
        kd_offline=installation.kd_offline,
        python=installation.python,
        system=installation.machine.system,
        processor=installation.machine.processor,
        cores=installation.machine.cores,
        cpu_capability=installation.cpu_capability,
        torch=installation.packages.get("torch"),
        packages={k: v for k, v in installation.packages.items() if not _is_extra(k)},
        extras=tuple(
            _extra(library, extra) for extra, libraries in EXTRAS.items() for library in libraries
        ),
        starcraft=look(),
        bundled_experts=bundled_experts(),
    )


def bundled_experts() -> tuple[str, ...]:
    """Return the experts in the package, as ``environment variant``."""
    root = files("kd_offline.experts") / "bundled"
    if not root.is_dir():
        return ()
    return tuple(
        f"{environment.name} {variant.name}"
        for environment in sorted(root.iterdir(), key=lambda folder: folder.name)
        if environment.is_dir()
        for variant in sorted(environment.iterdir(), key=lambda folder: folder.name)
        if (variant / "expert.json").is_file()
    )


def _is_extra(library: str) -> bool:
    return any(library in libraries for libraries in EXTRAS.values())


def _extra(library: str, extra: str) -> Extra:
    try:
        version: str | None = metadata.version(library)
    except metadata.PackageNotFoundError:
        version = None
    install = None if version else f"pip install 'kd-offline[{extra}]'"
    return Extra(library=library, version=version, extra=extra, install=install)
