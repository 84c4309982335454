"""JaxMARL, loaded when a map is asked for: its maps, a game, and where compiled code is kept."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kd_offline.environments.settings import parsed
from kd_offline.environments.smax.settings import SmaxSettings
from kd_offline.errors import MissingExtraError, UnknownNameError
from kd_offline.files import cache_folder

if TYPE_CHECKING:
    from kd_offline.environments.smax.environment import Smax

_MAPS = "jaxmarl.environments.smax.smax_env"
_GAMES = "jaxmarl.environments.smax.heuristic_enemy_smax_env"


def load(map_name: str, /, **settings: Any) -> Smax:
    """Return ``smax/<map>``.

    Raises
    ------
    MissingExtraError
        JaxMARL is not installed.
    UnknownNameError, UsageError
        There is no such map or setting, or a value is impossible.
    """
    name = f"smax/{map_name}"
    given = parsed(name, SmaxSettings, settings)
    if find_spec("jaxmarl") is None:
        raise MissingExtraError(library="jaxmarl", extra="smax", purpose=f"environment {name!r}")
    from kd_offline.environments.smax.environment import Smax

    return Smax(map_name, given)


def make_game(map_name: str, settings: SmaxSettings) -> Any:
    """Return JaxMARL's game on a map, against its heuristic enemy.

    Raises
    ------
    UnknownNameError
        There is no such map.
    """
    with _silence():
        scenarios: dict[str, Any] = import_module(_MAPS).MAP_NAME_TO_SCENARIO
        games = import_module(_GAMES)
    if map_name not in scenarios:
        raise UnknownNameError(what="SMAX map", got=map_name, allowed=scenarios)
    _keep_compiled_code()
    return games.HeuristicEnemySMAX(scenario=scenarios[map_name], **settings.of_game())


def version() -> str:
    """Return the version of JaxMARL."""
    return metadata.version("jaxmarl")


@contextmanager
def _silence() -> Iterator[None]:
    """Swallow what is printed, and give both streams back as they were.

    JaxMARL prints about modules that its wheel leaves out, and while it is imported it points
    ``sys.stdout`` at ``sys.__stdout__`` for good, whatever it was before; the same with stderr.
    """
    before = sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__
    nowhere = io.StringIO()
    sys.stdout = sys.__stdout__ = nowhere  # type: ignore[misc,assignment]
    sys.__stderr__ = sys.stderr  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__ = before  # type: ignore[misc]


def _keep_compiled_code() -> None:
    """Let JAX keep compiled maps in the user's cache, unless the user has chosen a place.

    Compiling a map takes 4 to 8 seconds, reading it back a tenth of that.
    """
    import jax

    root = cache_folder()
    if root is None or jax.config.jax_compilation_cache_dir is not None:
        return
    with suppress(OSError):
        (root / "jax").mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str((root / "jax").resolve()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
