"""Student families by name: the one place that lists them.

A new one is one file with a :class:`~kd_offline.students.families.base.StudentFamily` and one line
here, or in a package of its own one line of its ``pyproject.toml``::

    [project.entry-points."kd_offline.students"]
    mine = "my_package.mine:FAMILY"

None of ours needs PyTorch before it builds networks, so that recipes and cards are read without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kd_offline import recipes
from kd_offline.errors import KdOfflineError, UnknownNameError, UsageError, UserCodeError
from kd_offline.registry import Registry
from kd_offline.schemas.parts import PartRecord
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.user_code import calling

if TYPE_CHECKING:
    from kd_offline.students.families.base import StudentFamily

_HERE = "kd_offline.students.families"

FAMILIES: Registry[StudentFamily[Any, Any]] = Registry(
    "student family",
    "kd_offline.students",
    {
        "gru": f"{_HERE}.gru:FAMILY",
        "mlp": f"{_HERE}.mlp:FAMILY",
        "fusion": f"{_HERE}.fusion:FAMILY",
        "ptde": f"{_HERE}.ptde:FAMILY",
    },
)


def family_of(architecture: StudentArchitecture) -> StudentFamily[Any, Any]:
    """Return the family that settings name.

    Raises
    ------
    UnknownNameError, UsageError
        There is no such family, or several packages offer it.
    UserCodeError
        What a plug-in offers is no student family.
    """
    from kd_offline.students.families.base import StudentFamily

    name = architecture.family
    found = FAMILIES.load(name)
    declared = getattr(found, "settings", None)
    fault = ""
    if not isinstance(found, StudentFamily):
        fault = "it is no kd_offline.students.families.base.StudentFamily"
    elif not (isinstance(declared, type) and issubclass(declared, StudentArchitecture)):
        fault = "its settings are no subclass of StudentArchitecture"
    if fault:
        msg = f"the student family {name!r} of {FAMILIES.origin(name)} cannot be used: {fault}"
        raise UserCodeError(msg)
    return found


def settings_of(
    architecture: StudentArchitecture,
    *,
    asked_by: str = "",
    parts: Iterable[PartRecord] = (),
) -> Any:
    """Return settings as their family declares them, each of them checked.

    Parameters
    ----------
    architecture
        With the family's own settings beside the shared ones; those left out have their defaults.
    asked_by
        The file that names the family, in words.
    parts
        What that file says of packages.

    Raises
    ------
    UnknownNameError
        There is no such family here, or it has no such setting.
    UsageError
        A setting has an impossible value, or is one of another family.
    """
    name = architecture.family
    of = {p.name: f"{p.package} {p.version}" for p in parts if p.kind == FAMILIES.what}
    FAMILIES.require(name, asked_by=asked_by, package=of.get(name, ""))
    declared = family_of(architecture).settings
    if type(architecture) is declared:
        return architecture
    given = architecture.model_dump(exclude_unset=True)
    for setting in sorted(given.keys() - declared.model_fields.keys()):
        others = [n for n in FAMILIES.built_in if setting in FAMILIES.load(n).settings.model_fields]
        if others and given[setting] is not None:
            msg = (
                f"student.{setting} means nothing to {name}, it is a setting of "
                f"{' and '.join(others)}: leave it out, or choose that family"
            )
            raise UsageError(msg)
        if not others:
            what = "setting of the recipe, student"
            raise UnknownNameError(what=what, got=setting, allowed=declared.model_fields)
        del given[setting]  # None, as files of former versions have it
    return recipes.build(declared, [given], "the recipe, student")


def require_offer(architecture: StudentArchitecture, *offers: str) -> None:
    """Raise a ``UsageError`` with the family's reason where it declines one of ``offers``.

    These are names of :data:`~kd_offline.students.families.base.OPTIONAL`.
    """
    declined = declines(architecture)
    for offer in offers:
        if offer in declined:
            raise UsageError(declined[offer])


def offered(architecture: StudentArchitecture, *offers: str) -> tuple[str, ...]:
    """Return those of ``offers`` that the family does not decline; raises where it declines all."""
    declined = declines(architecture)
    found = tuple(offer for offer in offers if offer not in declined)
    if not found:
        raise UsageError(declined[offers[0]])
    return found


def declines(architecture: StudentArchitecture) -> dict[str, str]:
    """Return the operations that networks of these settings decline: a sentence for each name."""
    from kd_offline.students.families.base import OPTIONAL

    settings, name = settings_of(architecture), architecture.family
    with border(name)("declines"):
        reasons = dict(family_of(settings).declines(settings))
    origin = FAMILIES.origin(name)
    if not origin.ours:  # their shapes have no numbers of weights that are stored
        reasons["sparse"] = "only layers and GRUs of ours have them, so choose the student gru"
    who = f"students of the family {name!r}" + ("" if origin.ours else f" of {origin}")
    return {offer: f"{who} have no {OPTIONAL[offer]}: {why}" for offer, why in reasons.items()}


def border(name: str) -> Callable[[str], AbstractContextManager[None]]:
    """Return the border around calls into a family, by what is called: none around ours.

    What fails in one of a plug-in is a ``UserCodeError`` that says of which package it is, see
    :mod:`kd_offline.user_code`. Errors of kd-offline's tree, which are raised on purpose, pass.
    """
    if name in FAMILIES.built_in:
        return _open
    return partial(_guarded, f"the student family {name!r} of {FAMILIES.origin(name)}")


def _open(call: str) -> AbstractContextManager[None]:
    return nullcontext()


class _guarded(calling):
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, KdOfflineError):
            super().__exit__(kind, error, trace)
