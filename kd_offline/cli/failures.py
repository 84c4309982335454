"""Turn errors into one sentence on stderr and an exit code; a traceback only on request.

With ``--json`` the error is also the one document on stdout, see
:class:`~kd_offline.schemas.outputs.ErrorOutput`. Remedies of the library name Python arguments;
here they are worded in the options of the command that failed. The help of a command lists the
parts of installed packages that its options can name; nothing is imported for that.
"""

from __future__ import annotations

import errno
import inspect
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from kd_offline import errors
from kd_offline.cli import output, streams
from kd_offline.errors import (
    EXIT_FAILED,
    EXIT_USAGE,
    KdOfflineError,
    MissingExtraError,
    Remedy,
    UserCodeError,
    is_torch,
)
from kd_offline.registry import Registry
from kd_offline.untrusted_text import for_terminal

_DEBUG = "kd_offline.debug"
_COMMAND = "kd_offline.command"
# Names that options had before; they still work.
_RENAMED = {"--profile": "--device"}
# What a shell reports of a program that wrote to a pipe which nobody reads.
_EXIT_PIPE = 141
_NO_STORAGE = {getattr(errno, name) for name in ("ENOSPC", "EROFS", "EACCES", "EPERM", "EFBIG")} | {
    getattr(errno, "EDQUOT", errno.ENOSPC)  # absent on some platforms
}


class StoppedError(KdOfflineError):
    """Ctrl-C, with what was kept and how to go on."""


class Command(TyperCommand):
    """A command that is remembered while it runs, since errors are worded in its options.

    Its help lists the parts that plug-ins add to it.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command; ``ctx`` is the parser's context."""
        ctx.meta[_COMMAND] = self
        return super().invoke(ctx)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the parts of installed packages that the command takes, and its examples."""
        if rows := installed(self.name or ""):
            with formatter.section("From installed packages"):
                formatter.write_dl([(for_terminal(name), for_terminal(of)) for name, of in rows])
        super().format_epilog(ctx, formatter)


class Commands(TyperGroup):
    """The commands, with every failure turned into a sentence and an exit code."""

    def main(self, args: Any = None, *rest: Any, **extra: Any) -> Any:
        """Run a command line and leave with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        words, renamed = _with_new_names(words)
        options = words[: words.index("--")] if "--" in words else words
        output.begin(json="--json" in options)
        with _warnings_as_sentences():
            try:
                for old, new in renamed:
                    output.say(f"note: {old} is called {new} now")
                code = super().main(
                    words or ["--help"], *rest, **extra | {"standalone_mode": False}
                )
            except (Exception, KeyboardInterrupt) as error:
                code = _fail(error, debug="--debug" in options)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; ``ctx`` is the parser's context."""
        try:
            result = super().invoke(ctx)
            _say_network()
        except (typer.Exit, typer.Abort):
            _say_network()
            raise
        except (Exception, KeyboardInterrupt) as error:
            if _is_usage_error(error):
                raise
            if is_torch(error):
                error = MissingExtraError("torch", "torch", f"kd-offline {ctx.invoked_subcommand}")
            command, debug = ctx.meta.get(_COMMAND), _DEBUG in ctx.meta
            raise typer.Exit(_fail(error, debug, command, self.commands)) from None
        return result


def _with_new_names(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return a command line in which options have the names of today, and which had others."""
    made, renamed = [], []
    for word in words:
        name, equals, value = word.partition("=")
        if name in _RENAMED:
            renamed.append((name, _RENAMED[name]))
            name = _RENAMED[name]
        made.append(f"{name}{equals}{value}")
    return made, renamed


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Print warnings as one sentence each, and ours whatever the filters say."""
    with warnings.catch_warnings():
        warnings.showwarning = output.warn
        for _, kind in inspect.getmembers(errors, inspect.isclass):
            if issubclass(kind, Warning):
                warnings.simplefilter("always", kind)
        yield


def _say_network() -> None:
    if moved := output.network_bytes():
        output.say(f"network: {moved:,} bytes moved")


def _fail(
    error: BaseException, debug: bool, command: Any = None, every: Mapping[str, Any] | None = None
) -> int:
    """Print ``error`` as one sentence, and as a document where one was asked for."""
    if isinstance(error, streams.ReaderLeftError):
        return _EXIT_PIPE
    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            streams.note(f"{for_terminal(line)}\n")
    sentence, code = describe(error, command, every)
    output.say_error(sentence)
    if output.error_document_wanted():
        from kd_offline.schemas.outputs import ErrorDetails, ErrorOutput

        details = ErrorDetails(message=sentence, type=_kind(error), exit_code=code)
        with suppress(streams.ReaderLeftError, errors.StorageError):
            output.emit(ErrorOutput(error=details))
    return code


def describe(
    error: BaseException, command: Any = None, every: Mapping[str, Any] | None = None
) -> tuple[str, int]:
    """Return the sentence and the exit code of an error.

    ``command``: the one that failed, in whose options remedies are worded; ``every``: all commands
    by name.
    """
    if isinstance(error, KdOfflineError):

        def spell(remedy: Remedy) -> str | None:
            return str(remedy) if command is None else spelled(remedy, command, every or {})

        sentence = " ".join(error.sentence(spell).split())
        if isinstance(error, UserCodeError) and error.__cause__ is not None:
            sentence += "; --debug shows where in its code"
        return sentence, error.exit_code
    if _is_usage_error(error):
        return _usage_sentence(error), getattr(error, "exit_code", EXIT_USAGE)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing was changed", EXIT_FAILED
    if _from_pydantic(error):
        from kd_offline.recipes import explain

        return explain(error, "the input"), EXIT_USAGE  # type: ignore[arg-type]
    if isinstance(error, OSError) and error.errno in _NO_STORAGE:
        where = f" {error.filename!r}" if error.filename else ""
        return (
            f"cannot write{where}: {error.strerror}; free space or choose another folder",
            EXIT_FAILED,
        )
    text = " ".join(str(error).split()) or "no message"
    return (
        f"unexpected {type(error).__name__}: {text}; run the same command with --debug and report "
        "the traceback",
        EXIT_FAILED,
    )


def remember_debug(ctx: typer.Context, value: bool) -> bool:
    """Keep ``--debug`` where :func:`fail` finds it."""
    if value:
        ctx.find_root().meta[_DEBUG] = True
    return value


@contextmanager
def resumable(kept: str, begun: Path | None = None) -> Iterator[None]:
    """After Ctrl-C or a failure of the user's code, print what is kept and how to continue.

    ``begun`` is a file that is there as soon as something is kept; None: something always is.
    """
    try:
        yield
    except (KeyboardInterrupt, UserCodeError) as error:
        there = begun is None or begun.exists()
        if isinstance(error, UserCodeError):
            if begun is None or not there:
                raise
            msg = f"{error}; {kept}"
            raise UserCodeError(msg) from error.__cause__
        said = kept if there else "nothing was begun: run the same command again"
        msg = f"interrupted; {said}"
        raise StoppedError(msg) from error


def _from_pydantic(error: BaseException) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(error, pydantic.ValidationError)


def _is_usage_error(error: BaseException) -> bool:
    """Tell whether the parser itself raised ``error``."""
    return hasattr(error, "format_message")


def _kind(error: BaseException) -> str:
    return "UsageError" if _is_usage_error(error) else type(error).__name__


def _usage_sentence(error: Any) -> str:
    ctx = getattr(error, "ctx", None)
    command = "kd-offline" if ctx is None else ctx.command_path
    if "NoArgs" in type(error).__name__:  # its message is the help text
        return f"give a command: run {command} --help"
    text = error.format_message().rstrip(".")
    return f"{text[:1].lower()}{text[1:]}: run {command} --help"


_TERMS = "kd_offline.distillation.terms:TERMS"
_FAMILIES = "kd_offline.students.families:FAMILIES"
_ALGORITHMS = "kd_offline.experts.algorithms:ALGORITHMS"
_OBSERVERS = "kd_offline.tracking:OBSERVERS"
_ENVIRONMENTS = "kd_offline.environments:ENVIRONMENTS"
_EXECUTORS = "kd_offline.execution:EXECUTORS"
TAKEN: dict[str, tuple[str, ...]] = {
    "train": (_ALGORITHMS, _ENVIRONMENTS, _EXECUTORS, _OBSERVERS),
    "record": (_ENVIRONMENTS, _EXECUTORS, _OBSERVERS),
    "distill": (_TERMS, _FAMILIES, _EXECUTORS, _OBSERVERS),
    "sweep": (_TERMS, _FAMILIES, _EXECUTORS, _OBSERVERS),
    "evaluate": (_EXECUTORS, _OBSERVERS),
    "envs": (_ENVIRONMENTS,),
}
"""Command -> kinds of parts that its options name."""


def installed(command: str) -> list[tuple[str, str]]:
    """Return the plug-ins' parts for a command, each with its kind and package."""
    rows = []
    for place in TAKEN.get(command, ()):
        module, _, name = place.partition(":")
        registry: Registry[Any] = getattr(import_module(module), name)
        rows += [
            (part, f"{registry.what} of {origin}") for part, origin in registry.plug_ins().items()
        ]
    return rows


# Values of arguments in Python that are options of their own.
_FLAGS = {("duplicates", "drop"): "drop_duplicates", ("duplicates", "keep"): "allow_duplicates"}


def spelled(remedy: Remedy, command: Any, every: Mapping[str, Any]) -> str | None:
    """Return a remedy as one types it; None where the command has no such option.

    Parameters
    ----------
    remedy
        Of an error that the library raised.
    command
        The one that failed; its parameters have the names that the library's have.
    every
        All commands by name, for remedies that are other operations.
    """
    operation = remedy.operation.removesuffix("_recipe").replace("_", "-")
    if operation:
        command = every.get(operation)
        if command is None:
            return str(remedy)
    words: list[str] = []
    for name, value in remedy.arguments.items():
        option = _option(command, name, value)
        if option is None:
            return None
        words += option
    if operation:
        words = [f"kd-offline {operation}", *words]
    return remedy.around(" ".join(words))


def _option(command: Any, name: str, value: object) -> list[str] | None:
    """Return the words of one argument; None where the command does not take it."""
    known = {one.name: one for one in command.params}
    if isinstance(value, str) and (name, value) in _FLAGS:
        name, value = _FLAGS[name, value], True
    if isinstance(value, Mapping):
        return _entries(command, known, name, value)
    option = known.get(name)
    if option is None:
        return None
    if option.param_type_name == "argument":
        return [(option.metavar or name).upper()] if value is ... else [_typed(value)]
    if value is False:
        return [option.secondary_opts[0]] if option.secondary_opts else None
    flag = max(option.opts, key=len)
    if value is ... or value is True:
        return [flag]
    every = value if isinstance(value, list | tuple) else [value]
    return [word for each in every for word in (flag, _typed(each))]


def _entries(
    command: Any, known: Mapping[str, Any], name: str, given: Mapping[str, object]
) -> list[str] | None:
    """Return the words of settings by their paths: an option of their own, or ``--set``."""
    own = getattr(command.callback, "settings", {})
    recipe = getattr(command.callback, "recipe", None)
    words = []
    for path, value in given.items():
        if name == "settings" and path in own:
            words += _option(command, own[path], value) or []
        elif name == "settings" and recipe and path.split(".")[0] not in recipe.model_fields:
            return None
        elif name in known:
            words += [known[name].opts[0], _typed(f"{path}={_plain(value)}")]
        else:
            return None
    return words


def _plain(value: object) -> str:
    if value is ...:
        return "VALUE"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _typed(value: object) -> str:
    return shlex.quote(str(value))
