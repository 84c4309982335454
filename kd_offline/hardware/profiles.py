"""Load hardware profiles by the name of one in the package, or by the path of a TOML file."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

from kd_offline.errors import UnknownNameError
from kd_offline.recipes import build, read_recipe
from kd_offline.schemas.hardware import HardwareProfile

_HINT = "or give the path of a .toml file, such as kd-offline doctor calibrate writes"


def names() -> tuple[str, ...]:
    """Return the names of the profiles in the package."""
    root = files("kd_offline.hardware") / "profiles"
    return tuple(sorted(file.name[:-5] for file in root.iterdir() if file.name.endswith(".toml")))


def load(profile: str | Path) -> HardwareProfile:
    """Return a profile by its name or by the path of a TOML file.

    Raises
    ------
    UnknownNameError
        It is neither a name nor a file.
    UsageError
        The file cannot be read, or a figure in it is not complete.
    """
    path = Path(profile)
    if path.suffix == ".toml" or path.is_file():
        return build(HardwareProfile, [read_recipe(path)], f"device {path.name!r}")
    if str(profile) not in names():
        raise UnknownNameError(what="device", got=str(profile), allowed=names(), hint=_HINT)
    text = (files("kd_offline.hardware") / "profiles" / f"{profile}.toml").read_text("utf-8")
    return HardwareProfile.model_validate(tomllib.loads(text))


def toml_text(profile: HardwareProfile) -> str:
    """Return a profile as TOML: one inline table for each figure."""
    lines = []
    for key, value in profile.model_dump(mode="json", exclude_none=True).items():
        if key != "engines":
            lines.append(f"{key} = {_toml(value)}")
    for engine, parts in profile.engines.items():
        lines += ["", f"[engines.{_key(engine)}]"]
        figures = parts.model_dump(mode="json", exclude_none=True)
        lines += [f"{key} = {_toml(value)}" for key, value in figures.items()]
    return "\n".join(lines) + "\n"


def _key(text: str) -> str:
    return text if text.replace("-", "").replace("_", "").isalnum() else _toml(text)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        escaped = "".join(f"\\u{ord(c):04x}" if c in '"\\' or ord(c) < 32 else c for c in value)
        return f'"{escaped}"'
    return repr(value)
