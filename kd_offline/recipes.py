"""Build settings models from layers: a file, then settings by dotted path, then validation."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.parts import PartRecord

Tree = dict[str, Any]
Model = TypeVar("Model", bound=Strict)


def read_recipe(path: str | Path) -> Tree:
    """Return the content of a recipe file.

    A ``.toml`` file holds a recipe. A ``.json`` file may also be a ``run.json`` or ``expert.json``,
    whose recipe is taken.

    Raises
    ------
    UsageError
        It cannot be read, or is no TOML or JSON.
    """
    tree = read_tree(path, "recipe")
    inner = tree.get("recipe", tree) if isinstance(tree, dict) else None
    if not isinstance(inner, dict):
        msg = f"recipe {str(path)!r} holds no table of settings; correct the file"
        raise UsageError(msg)
    return inner


def read_tree(path: str | Path, what: str) -> Any:
    """Return the content of a ``.json`` file, or else of a TOML file; ``what`` names it in errors.

    Raises
    ------
    UsageError
        It cannot be read, or is no TOML or JSON.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        return json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        msg = f"{what} {str(path)!r} cannot be read: {error.strerror}; check the path"
        raise UsageError(msg) from None
    except (ValueError, RecursionError) as error:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        msg = f"{what} {str(path)!r} is not valid {kind}: {error}; correct the file"
        raise UsageError(msg) from None


def merge(layers: Iterable[Mapping[str, Any]]) -> Tree:
    """Return all ``layers`` merged; later ones win, and keys may be dotted paths."""
    tree: Tree = {}
    for layer in layers:
        for key, value in layer.items():
            _set_path(tree, key.split("."), value)
    return tree


def build(model: type[Model], layers: Iterable[Mapping[str, Any]], what: str) -> Model:
    """Merge ``layers``, later ones winning, and return the validated model.

    Keys may be dotted paths (``terms.policy.ratio``); tables are merged, everything else replaced.

    Raises
    ------
    UnknownNameError
        There is no such setting.
    UsageError
        A setting has an invalid value.
    """
    tree = merge(layers)
    _check_names(model, tree, what)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UsageError(explain(error, what)) from None


def nested(layer: Mapping[str, Any]) -> Tree:
    """Return a layer as nested tables; its keys may be dotted paths."""
    tree: Tree = {}
    for key, value in layer.items():
        _set_path(tree, key.split("."), value)
    return tree


def stated_parts(path: str | Path) -> tuple[PartRecord, ...]:
    """Return the parts of plug-ins, with package and version, that the file of a recipe states."""
    tree = read_tree(path, "recipe")
    stated = tree.get("parts", ()) if isinstance(tree, dict) and "recipe" in tree else ()
    try:
        return tuple(PartRecord.model_validate(part) for part in stated)
    except (TypeError, ValidationError):
        msg = f"recipe {str(path)!r} does not say which parts it needs; restore it"
        raise UsageError(msg) from None


def paths(layer: Mapping[str, Any]) -> set[str]:
    """Return the dotted path of every setting in a layer."""
    settings = set()
    for key, value in layer.items():
        inner = paths(value) if isinstance(value, Mapping) else {""}
        settings |= {f"{key}.{path}".rstrip(".") for path in inner}
    return settings


def assignment(text: str) -> tuple[str, Any]:
    """Split ``key=value`` and read the value as TOML, ``none``, or plain text.

    Raises
    ------
    UsageError
        There is no ``=``, or nothing before it.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        msg = f"{text!r} is not a setting: write it as NAME=VALUE, such as terms.policy.ratio=joint"
        raise UsageError(msg)
    return key.strip(), _value(value.strip())


def explain(error: ValidationError, what: str) -> str:
    """Return one sentence about the first error that pydantic found."""
    first = _first(error)
    path = ".".join(str(part) for part in first["loc"]) or "the whole"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not first["loc"] and first["type"] == "value_error":  # settings contradict each other
        return f"{what}: {reason}; correct these settings"
    given = first["input"]
    value = "" if isinstance(given, Mapping) else f" is {given!r}, which"
    return f"{what}: {path}{value} {reason[:1].lower()}{reason[1:]}; correct that setting"


def _first(error: ValidationError) -> dict[str, Any]:
    """Return the first error; of a value with several types, that of the type which it has."""
    problems: list[dict[str, Any]] = [dict(problem) for problem in error.errors()]
    kind = type(problems[0]["input"]).__name__
    if problems[0]["loc"][-1:] in [(name,) for name in ("bool", "int", "float", "str")]:
        own = [p for p in problems if p["loc"] == (*problems[0]["loc"][:-1], kind)]
        first = (own or problems)[0]
        return first | {"loc": first["loc"][:-1]}
    return problems[0]


def _value(text: str) -> Any:
    if text.lower() in ("none", "null"):
        return None
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _set_path(tree: Tree, path: list[str], value: Any) -> None:
    head, *rest = path
    if rest:
        child = tree.setdefault(head, {})
        if not isinstance(child, dict):
            child = tree[head] = {}
        _set_path(child, rest, value)
    elif isinstance(value, Mapping) and isinstance(tree.get(head), dict):
        for key, inner in value.items():
            _set_path(tree[head], [key], inner)
    else:
        tree[head] = dict(value) if isinstance(value, Mapping) else value


def _check_names(model: type[Strict], tree: Tree, what: str) -> None:
    for name, value in tree.items():
        field = model.model_fields.get(name)
        if field is None and model.model_config.get("extra") == "allow":
            continue  # a part's own, which it checks
        if field is None:
            raise UnknownNameError(what=f"setting of {what}", got=name, allowed=model.model_fields)
        kinds = get_args(field.annotation) if _is_optional(field.annotation) else ()
        for kind in (field.annotation, *kinds):
            if isinstance(kind, type) and issubclass(kind, Strict) and isinstance(value, dict):
                _check_names(kind, value, f"{what}, {name}")


def _is_optional(annotation: Any) -> bool:
    return isinstance(annotation, UnionType)
