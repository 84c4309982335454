"""Registries of parts by name: those of kd-offline, and those of installed plug-ins.

A part is one object of one module, written as ``module:attribute`` in a table here, or as an entry
point of a plug-in. Listing names imports nothing; a module is imported when its part is loaded.
Which packages are installed is the user's choice, so a name in a file can choose only among them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from kd_offline import __version__
from kd_offline.errors import MismatchError, UnknownNameError, UsageError
from kd_offline.schemas.parts import PartRecord
from kd_offline.user_code import calling

Part = TypeVar("Part")

_OURS = "kd-offline"


@dataclass(frozen=True, slots=True)
class Origin:
    """The package that a part comes from, and its installed version."""

    package: str
    version: str

    @property
    def ours(self) -> bool:
        """Whether the part ships with kd-offline."""
        return self.package == _OURS

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


@dataclass(frozen=True, slots=True)
class Registry(Generic[Part]):
    """Parts of one kind by name.

    Parameters
    ----------
    what
        The kind in words, for errors: ``loss term``.
    group
        Entry-point group by which plug-ins add parts: ``kd_offline.terms``.
    built_in
        ``module:attribute`` of each part that ships with kd-offline.

    A name that ends in ``/``, here or in a plug-in, stands for all that begin with it, such as
    ``smax/`` for ``smax/3m``; a whole name goes before it.
    """

    what: str
    group: str
    built_in: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """Return every name: ours in the order of the table, then those of plug-ins, sorted."""
        return (*self.built_in, *sorted(self._plug_ins()))

    def __contains__(self, name: object) -> bool:
        return self._key(str(name)) is not None

    def key(self, name: str) -> str:
        """Return the name, or the beginning of it up to a ``/``, by which ``name`` is found.

        Raises
        ------
        UnknownNameError
            There is no such part here.
        """
        self.require(name)
        return self._key(name) or name

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def plug_ins(self) -> dict[str, Origin]:
        """Return the names that plug-ins offer, sorted, with their packages; imports nothing.

        A name that :meth:`load` refuses, since two packages offer it, is left out.
        """
        offered = {
            name: {entry.value for entry in entries} for name, entries in self._plug_ins().items()
        }
        own = [name for name, values in offered.items() if len(values) == 1]
        return {name: self.origin(name) for name in sorted(own) if name not in self.built_in}

    def load(self, name: str) -> Part:
        """Return the part called ``name``; imports its module.

        Raises
        ------
        UnknownNameError
            There is no such part here.
        UserCodeError
            The module of a plug-in cannot be imported, or lacks the attribute.
        UsageError
            Two plug-ins offer the name, or a plug-in offers one of ours.
        """
        key = self.key(name)
        if key in self.built_in:
            self._refuse_clash(key)
            return self._resolve(self.built_in[key])
        with calling(f"the {self.what} {name!r} of {self.origin(name)}", "import"):
            return cast(Part, self._entry(key).load())

    def origin(self, name: str) -> Origin:
        """Return the package that offers ``name``, and its version.

        Raises
        ------
        UnknownNameError, UsageError
            As for :meth:`load`.
        """
        key = self.key(name)
        if key in self.built_in:
            return Origin(_OURS, __version__)
        package = self._entry(key).dist
        return Origin("", "") if package is None else Origin(package.name, package.version)

    def require(self, name: str, *, asked_by: str = "", package: str = "") -> None:
        """Raise an ``UnknownNameError`` if there is no part called ``name``.

        ``asked_by`` is the file that names it, in words; ``package`` is the package that the file
        states for the part.
        """
        if name in self:
            return
        hint = f"{asked_by} names it" if asked_by else ""
        if package:
            hint = f"{hint}, from the package {package!r}: install that one".removeprefix(", ")
        raise UnknownNameError(what=self.what, got=name, allowed=self.names(), hint=hint)

    def records(self, names: Iterable[str]) -> tuple[PartRecord, ...]:
        """Return package and version of those of the named parts that come from plug-ins.

        Names of no part are left out: an environment, say, need not be one.
        """
        origins = ((name, self.origin(name)) for name in names if name in self)
        return tuple(
            PartRecord(kind=self.what, name=name, package=origin.package, version=origin.version)
            for name, origin in origins
            if not origin.ours
        )

    def require_versions(self, stated: Iterable[PartRecord], *, asked_by: str) -> None:
        """Raise a ``MismatchError`` if a stated part of this kind has another version here.

        A part that is missing here is an ``UnknownNameError``; ``asked_by`` is the file, in words.
        """
        for part in stated:
            if part.kind != self.what:
                continue
            stated_version = f"{part.package} {part.version}"
            self.require(part.name, asked_by=asked_by, package=stated_version)
            if str(installed := self.origin(part.name)) != stated_version:
                msg = (
                    f"{asked_by} was made with the {self.what} {part.name!r} of {stated_version}, "
                    f"and {installed} is installed: install that version"
                )
                raise MismatchError(msg)

    def _resolve(self, reference: str) -> Part:
        module, _, attribute = reference.partition(":")
        return cast(Part, getattr(import_module(module), attribute))

    def _plug_ins(self) -> dict[str, list[EntryPoint]]:
        entries_by_name: dict[str, list[EntryPoint]] = {}
        for entry in entry_points_of(self.group):
            entries_by_name.setdefault(entry.name, []).append(entry)
        return entries_by_name

    def _key(self, name: str) -> str | None:
        if name in self.built_in:
            return name
        known = (name, *(f"{part}/" for part in _beginnings(name)))
        plug_ins = self._plug_ins()
        return next((key for key in known if key in self.built_in or key in plug_ins), None)

    def _is_under_ours(self, name: str) -> bool:
        return any(name.startswith(ours) for ours in self.built_in if ours.endswith("/"))

    def _entry(self, name: str) -> EntryPoint:
        offered = self._plug_ins()[name]
        if self._is_under_ours(name):
            raise UsageError(self._clash(name, offered))
        if len({entry.value for entry in offered}) > 1:
            raise UsageError(self._clash(name, offered))
        return offered[0]

    def _refuse_clash(self, name: str) -> None:
        if offered := self._plug_ins().get(name):
            raise UsageError(self._clash(name, offered))

    def _clash(self, name: str, offered: list[EntryPoint]) -> str:
        packages = sorted({entry.dist.name if entry.dist else "?" for entry in offered})
        mine = name in self.built_in or self._is_under_ours(name)
        others = [_OURS, *packages] if mine else packages
        return (
            f"the {self.what} {name!r} is offered by {' and by '.join(others)}: uninstall one of "
            "them, or rename the entry point"
        )


def entry_points_of(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, such as ``kd_offline.terms``; imports nothing.

    Packages are looked through once; again where ``sys.path`` or a folder in it has changed.
    """
    path = tuple(sys.path)
    return _installed(path, _changed(path)).get(group, ())


def _beginnings(name: str) -> Iterator[str]:
    """Yield what stands before each ``/`` of a name, the longest first."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _changed(path: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Return which folder each one of ``sys.path`` is, and when installing a package changed it."""
    marks = []
    for folder in path:
        try:
            status = os.stat(folder or ".")  # noqa: PTH116 - asked for every name
            marks.append((status.st_ino, status.st_mtime_ns))
        except OSError:
            marks.append((0, 0))
    return tuple(marks)


@lru_cache(maxsize=8)
def _installed(
    path: tuple[str, ...], changed: tuple[tuple[int, int], ...]
) -> dict[str, tuple[EntryPoint, ...]]:
    """Return our entry points by group, all at once: a file of every package is read for them."""
    every = entry_points()
    ours = [group for group in every.groups if group.startswith("kd_offline.")]
    return {group: tuple(every.select(group=group)) for group in ours}
