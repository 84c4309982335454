"""Errors at the border: one sentence on stderr and an exit code, a traceback only on request."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from kd_offline.cli.output import count_network, network_bytes
from kd_offline.errors import (
    EXIT_FAILED,
    EXIT_USAGE,
    KdOfflineError,
    MissingExtraError,
    is_torch,
)

_DEBUG = "kd_offline.debug"
_NO_STORAGE = {getattr(errno, name) for name in ("ENOSPC", "EROFS", "EACCES", "EPERM", "EFBIG")} | {
    getattr(errno, "EDQUOT", errno.ENOSPC)  # absent on some platforms
}


class StoppedError(KdOfflineError):
    """Ctrl-C, with what was kept and how to go on."""


class Commands(TyperGroup):
    """The commands, with every failure turned into a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; ``ctx`` is the parser's context."""
        count_network()
        try:
            result = super().invoke(ctx)
            _say_network()
        except (KeyboardInterrupt, OSError, ValueError, KdOfflineError) as error:
            fail(ctx, error)
        except (typer.Exit, typer.Abort):
            _say_network()
            raise
        except Exception as error:
            if _is_usage_error(error):
                raise
            fail(ctx, error)
        else:
            return result


def _say_network() -> None:
    if moved := network_bytes():
        typer.echo(f"network: {moved:,} bytes moved", err=True)


def fail(ctx: Any, error: BaseException) -> None:
    """Print ``error`` as one sentence and leave."""
    if isinstance(error, BrokenPipeError):
        raise error
    if ctx.find_root().meta.get(_DEBUG):
        traceback.print_exception(error, file=sys.stderr)
    if is_torch(error):
        error = MissingExtraError("torch", "torch", f"kd-offline {ctx.invoked_subcommand}")
    sentence, code = describe(error)
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(code)


def describe(error: BaseException) -> tuple[str, int]:
    """Return the sentence and the exit code of an error."""
    if isinstance(error, KdOfflineError):
        return " ".join(str(error).split()), error.exit_code
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
def resumable(kept: str) -> Iterator[None]:
    """Turn Ctrl-C into a sentence that says what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        msg = f"interrupted; {kept}"
        raise StoppedError(msg) from error


def _from_pydantic(error: BaseException) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(error, pydantic.ValidationError)


def _is_usage_error(error: Exception) -> bool:
    """Tell whether the parser itself raised ``error`` and will print it."""
    return hasattr(error, "format_message")
