"""``doctor``: what is installed, what is absent and how to get it."""

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
    "report": ("jinja2", "matplotlib"),
    "share": ("cryptography", "huggingface-hub", "obstore"),
    "smax": ("jaxmarl",),
    "sweep": ("optuna",),
    "torch": ("torch",),
    "track": ("mlflow-skinny", "tensorboard", "wandb"),
    "xarray": ("xarray",),
}


def examine() -> DoctorReport:
    """Look at this installation; imports PyTorch to ask for the processor's capability."""
    with suppress(ImportError):
        import_module("torch")
    made = provenance()
    return DoctorReport(
        kd_offline=made.kd_offline,
        python=made.python,
        system=made.machine.system,
        processor=made.machine.processor,
        cores=made.machine.cores,
        cpu_capability=made.cpu_capability,
        torch=made.packages.get("torch"),
        packages={k: v for k, v in made.packages.items() if not _is_extra(k)},
        extras=tuple(_extra(lib, extra) for extra, libs in EXTRAS.items() for lib in libs),
        starcraft=look(),
        bundled_experts=bundled_experts(),
    )


def bundled_experts() -> tuple[str, ...]:
    """Return the experts inside the package, as ``environment variant``."""
    root = files("kd_offline.experts") / "bundled"
    if not root.is_dir():
        return ()
    return tuple(
        f"{environment.name} {variant.name}"
        for environment in sorted(root.iterdir(), key=lambda place: place.name)
        if environment.is_dir()
        for variant in sorted(environment.iterdir(), key=lambda place: place.name)
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
