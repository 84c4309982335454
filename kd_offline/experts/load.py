"""Load an expert from a reference that the user gave."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from kd_offline import code_guard
from kd_offline.errors import CheckpointError, Remedy, UnknownNameError, UsageError
from kd_offline.experts import checkpoint
from kd_offline.experts.expert import TrainedExpert
from kd_offline.experts.importers import load as importers
from kd_offline.experts.importers.files import looks_like
from kd_offline.experts.protocol import Expert
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import BoolArray

VARIANTS = ("default", "large", "mlp", "masked")


def load(
    reference: str | Path,
    spec: EnvironmentSpec,
    recipe: str | Path | None = None,
    *,
    with_value: bool = True,
    opponents: Sequence[str] = (),
    deciding: BoolArray | None = None,
) -> Expert:
    """Load the expert ``reference`` and check that it fits the environment.

    ``bundled`` is the strongest recurrent expert that ships with the package, ``bundled:large`` a
    wider one of about 110,000 actor parameters, ``bundled:mlp`` one without memory, and
    ``bundled:masked`` one that was trained under the mask of its students. ``LIBRARY:PLACE`` is one
    of another library, see :mod:`kd_offline.experts.importers.load`, with the inputs that
    ``recipe`` describes. Anything else is a folder made by ``kd-offline train``. Without
    ``with_value`` no critic runs, which halves the work where values are not needed.

    Where an expert learned only some sides, its file names the expert that plays the others.
    Bundled ones are loaded; ``opponents`` lists further ones that are allowed, see
    :mod:`kd_offline.code_guard`. Opponents are not loaded where their decisions are not needed:
    ``deciding``, bool [N], is True for agents whose decisions are.

    Raises
    ------
    CheckpointError, MismatchError, UnknownNameError, UsageError
        There is no such expert, or it cannot be used here.
    """
    name = str(reference)
    if importers.prefix_of(name) is not None:
        return importers.load(name, spec, recipe, with_value=with_value)
    if recipe is not None:
        msg = (
            f"expert {name!r} was trained by kd-offline and needs no recipe: leave it out, or name "
            f"the library as one of {', '.join(f'{p}:' for p in importers.PREFIXES)}"
        )
        raise UsageError(msg)
    own = load_own(name, spec)
    missing = ~own.learned if deciding is None else deciding & ~own.learned
    loaded_opponents = _opponents(own, spec, with_value, opponents) if missing.any() else None
    return replace(own, with_value=with_value, opponents=loaded_opponents)


def _opponents(
    own: TrainedExpert, spec: EnvironmentSpec, with_value: bool, allowed: Sequence[str]
) -> Expert:
    """Load the expert that played the sides that ``own`` did not learn."""
    reference = own.card.recipe.opponents or "bundled"
    asked_by = f"the expert {own.reference!r}"
    code_guard.check_expert(reference, asked_by=asked_by, argument="opponents", allowed=allowed)
    # Each allowed name can be used once, so that a chain of experts cannot be circular.
    still_allowed = [name for name in allowed if name != reference]
    try:
        return load(
            reference, spec, with_value=with_value, opponents=still_allowed, deciding=~own.learned
        )
    except CheckpointError as error:
        sides = ", ".join(own.card.recipe.learn or ())
        msg = (
            f"expert {own.reference!r} learned the side {sides} against {reference!r}, which plays "
            f"the other side and cannot be loaded: {error.args[0]}"
        )
        raise CheckpointError(msg) from error


def load_own(name: str, spec: EnvironmentSpec) -> TrainedExpert:
    """Load an expert that kd-offline trained: a bundled one, or a folder.

    Raises
    ------
    CheckpointError, MismatchError, UnknownNameError
        As for :func:`load`.
    """
    if name != "bundled" and not name.startswith("bundled:"):
        _refuse_foreign(name)
        return checkpoint.load(Path(name), name, spec)
    variant = name.partition(":")[2] or "default"
    if variant not in VARIANTS:
        raise UnknownNameError(what="bundled expert", got=variant, allowed=VARIANTS)
    folder = bundled_folder(spec.id, variant)
    if variant == "large" and not folder.is_dir():  # the strongest one has that size already
        folder = bundled_folder(spec.id, "default")
    if not folder.is_dir():
        available = ", ".join(_bundled_name(variant_name) for variant_name in _bundled_for(spec))
        msg = (
            f"no expert {name!r} for {spec.id} comes with kd-offline (there: "
            f"{available or 'none'}): train one (kd-offline train {spec.id})"
        )
        raise CheckpointError(msg, Remedy("pass its folder as", expert=...))
    return checkpoint.load(folder, name, spec)


def _refuse_foreign(name: str) -> None:
    """Raise if ``name`` is a checkpoint of another library, named without its prefix."""
    prefix, colon, _ = name.partition(":")
    path = Path(name)
    if colon and "/" not in prefix and not path.exists():
        raise UnknownNameError(
            what="library of an expert", got=prefix, allowed=["bundled", *importers.PREFIXES]
        )
    library = looks_like(path) if path.exists() and not (path / checkpoint.CARD).is_file() else None
    if library is not None:
        msg = (
            f"{name!r} is not an expert of kd-offline but looks like one of {library}: "
            f"write {library}:{name}"
        )
        raise CheckpointError(msg)


def find(digest: str | None, spec: EnvironmentSpec) -> TrainedExpert | None:
    """Return the bundled expert for ``spec`` whose weights have ``digest``, if there is one.

    Raises
    ------
    MismatchError
        There is one, and it does not fit ``spec``.
    """
    for variant in _bundled_for(spec):
        folder = bundled_folder(spec.id, variant)
        if checkpoint.digest(folder) == digest:
            return checkpoint.load(folder, _bundled_name(variant), spec)
    return None


def _bundled_for(spec: EnvironmentSpec) -> list[str]:
    return [variant for variant in VARIANTS if bundled_folder(spec.id, variant).is_dir()]


def _bundled_name(variant: str) -> str:
    return "bundled" if variant == "default" else f"bundled:{variant}"


def bundled_folder(environment: str, variant: str) -> Path:
    """Return the folder of a bundled expert in the package.

    The environment's name may come from a file: characters that could leave the package are
    replaced.
    """
    slug = re.sub(r"[^\w-]", "-", environment, flags=re.ASCII)
    return Path(str(files("kd_offline.experts"))) / "bundled" / slug / variant
