"""Options that are settings of a recipe: type, help and default are those of the recipe's field."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kd_offline.cli.completion import Completion, one_of


@dataclass(frozen=True, slots=True)
class Setting:
    """An option for a setting of a recipe.

    Parameters
    ----------
    path
        Of the setting, such as ``optimisation.epochs``.
    flags
        As the parser takes them, where they are not the parameter's name: ``--share/--separate``.
    help
        In place of the field's description. Settings of parts have no field in the recipe's model,
        so theirs is always given.
    kind
        Type of the value, where it is not that of the field, or the recipe's model has no such
        field.
    default
        What the help says of it, where that is not the field's own default.
    complete
        Completes the value in a shell.
    metavar
        What stands for the value in the help.
    """

    path: str
    flags: str = ""
    help: str = ""
    kind: type | None = None
    default: str = ""
    complete: Completion | None = None
    metavar: str | None = None


def recipe_options(
    model: type[BaseModel], settings: Mapping[str, Setting]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each setting, by the names of its parameters.

    The command has a parameter ``chosen``: it is called with the settings that were given, by their
    paths. The options stand in its place.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = inspect.signature(command).parameters
        parameters = []
        for name, parameter in own.items():
            if name == "chosen":
                parameters += [_parameter(each, one, model) for each, one in settings.items()]
            else:
                parameters.append(parameter.replace(annotation=hints[name]))

        @wraps(command)
        def run(*arguments: Any, **given: Any) -> None:
            values = {one.path: given.pop(name, None) for name, one in settings.items()}
            chosen = {path: value for path, value in values.items() if value not in (None, [])}
            command(*arguments, **given, chosen=chosen)

        # Which option gives a setting, for sentences that name settings by their paths.
        run.recipe = model  # type: ignore[attr-defined]
        run.settings = {one.path: name for name, one in settings.items()}  # type: ignore[attr-defined]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _parameter(name: str, setting: Setting, model: type[BaseModel]) -> inspect.Parameter:
    field = _field(model, setting.path)
    kind: Any = setting.kind or (str if field is None else _plain(field.annotation))
    allowed = _allowed(kind)
    if get_origin(kind) is tuple:  # of any number: the option is repeated
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    flags = setting.flags
    if kind is bool and not flags:
        flags = f"--{name.replace('_', '-')}"
    option = typer.Option(
        *([flags] if flags else []),
        help=_help(setting, field, allowed, repeated=get_origin(kind) is list),
        autocompletion=setting.complete or (one_of(*allowed) if allowed else None),
        metavar=setting.metavar,
    )
    shown = str if allowed else kind
    kept = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kept, default=None, annotation=Annotated[shown | None, option])


def _field(model: type[BaseModel], path: str) -> FieldInfo | None:
    """Return the field of a dotted path; None where the model has none there."""
    head, _, rest = path.partition(".")
    field = model.model_fields.get(head)
    if field is None or not rest:
        return field
    inner = _plain(field.annotation)
    is_model = isinstance(inner, type) and issubclass(inner, BaseModel)
    return _field(inner, rest) if is_model else None


def _plain(annotation: Any) -> Any:
    """Return a type without None and without its limits."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return _plain(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def _allowed(kind: Any) -> tuple[str, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _help(
    setting: Setting, field: FieldInfo | None, allowed: tuple[str, ...], *, repeated: bool
) -> str:
    """Return description, allowed values and default: ``Of AdamW.  [default: 0.01]``."""
    text, default = setting.help, setting.default
    if field is not None:
        described, _, absent = (field.description or "").partition("; None: ")
        text = text or f"{described[:1].upper()}{described[1:]}"
        stated = field.default not in (None, "", ()) and not field.is_required()
        default = default or absent or (str(field.default) if stated else "")
        if _plain(field.annotation) is bool:  # a flag says it by its name
            default = setting.default
    if allowed and not setting.help:
        text = f"{text}: {', '.join(allowed[:-1])} or {allowed[-1]}"
    text = f"{text}; repeatable" if repeated else text
    return f"{text}.  [default: {default}]" if default else f"{text}."
