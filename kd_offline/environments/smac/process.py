"""The client side of a game that runs in its own process."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from typing import IO, Any, cast

from kd_offline.environments.smac import worker
from kd_offline.errors import GameError, Remedy

_PATIENCE = 10.0  # seconds that a game gets to end by itself
_START = "import sys; sys.path[:] = {path!r}; from {module} import main; main({arguments!r})"


class Game:
    """The process of one game; process and game end with this object.

    The process leads its own session. Ctrl-C in the terminal therefore does not interrupt the game
    during a step, and everything that the game started can be ended with it.
    """

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self._name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process lives)
        code = _START.format(path=sys.path, module=worker.__name__, arguments=arguments)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)
        self._end = weakref.finalize(self, _end, self._process, self._log)

    def ask(self, request: str, *given: Any) -> None:
        """Send a request; :meth:`answer` waits for its result."""
        with suppress(BrokenPipeError):  # it died: the answer says how
            pickle.dump((request, given), self._requests)
            self._requests.flush()

    def answer(self) -> Any:
        """Return the answer to the oldest request.

        Raises
        ------
        GameError
            The game refused, or its process ended.
        """
        try:
            done, what = pickle.load(self._answers)
        except (EOFError, pickle.UnpicklingError):
            raise self._broken() from None
        if not done:
            msg = f"the game of {self._name} failed: {what}; kd-offline doctor tells what it finds"
            raise GameError(msg)
        return what

    def hang_up(self) -> None:
        """Signal the process to end, without waiting for it."""
        _hang_up(self._process)

    def stop(self) -> None:
        """End the process, by force if necessary."""
        self._end()

    def _broken(self) -> GameError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").split("\n")
        last = next((f", its last words were {x.strip()!r}" for x in lines[::-1] if x.strip()), "")
        return GameError(
            f"the process of a game of {self._name} ended by itself "
            f"(exit status {self._process.returncode}{last})",
            Remedy("start again"),
            Remedy("go on with what was recorded so far by", resume=True),
        )


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(OSError):  # what was not sent yet cannot be sent to the dead
            process.stdin.close()


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    _hang_up(process)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)
    if process.returncode != 0:  # it hangs, or it died and left its game behind
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
    log.close()
