"""From a reference, as users write it, to an expert."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from kd_offline.errors import CheckpointError, UnknownNameError
from kd_offline.experts import checkpoint
from kd_offline.experts.expert import Expert
from kd_offline.schemas.environment import EnvironmentSpec

VARIANTS = ("default", "large", "mlp")


def load(reference: str | Path, spec: EnvironmentSpec) -> Expert:
    """Load the expert that ``reference`` names and check that it fits ``spec``.

    ``bundled`` is the strongest recurrent expert that ships with the package, ``bundled:large`` a
    wider one of about 110,000 actor parameters, ``bundled:mlp`` one without memory. Anything else
    is a folder made by ``kd-offline train``.

    Raises
    ------
    CheckpointError, MismatchError, UnknownNameError
        There is no such expert, or it cannot be used here.
    """
    name = str(reference)
    if name != "bundled" and not name.startswith("bundled:"):
        return checkpoint.load(Path(reference), name, spec)
    variant = name.partition(":")[2] or "default"
    if variant not in VARIANTS:
        raise UnknownNameError(what="bundled expert", got=variant, allowed=VARIANTS)
    folder = bundled_folder(spec.id, variant)
    if variant == "large" and not folder.is_dir():  # the strongest one has that size already
        folder = bundled_folder(spec.id, "default")
    if not folder.is_dir():
        msg = (
            f"no expert for {spec.id} comes with kd-offline: train one with "
            f"kd-offline train {spec.id} -o expert/ and pass --expert expert/"
        )
        raise CheckpointError(msg)
    return checkpoint.load(folder, name, spec)


def bundled_folder(environment: str, variant: str) -> Path:
    """Return where the bundled expert of an environment lies inside the package."""
    slug = environment.replace("/", "-")
    return Path(str(files("kd_offline.experts"))) / "bundled" / slug / variant
