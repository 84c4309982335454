"""Executor that runs tasks on a Ray cluster: on this machine or on many."""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from kd_offline.errors import MissingExtraError, UsageError, WorkerError
from kd_offline.execution.base import RETRIES, Executor, Item, Resources, Result, logged, portable
from kd_offline.files import write_file
from kd_offline.user_code import described

_CONNECT_S = 10.0
_CHECK_S = 120.0  # for a first process to start on every node
_MB = 1_000_000
_POLL_S = 1.0  # how long Ctrl-C waits at most
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS, _TYPE = b"\0\0\0\4\0\0\0\0\0", slice(3, 4)
_OF_COMMANDS = ("kd_offline.executors", "kd_offline.observers")
"""Entry-point groups of parts that no task uses."""


class Ray(Executor):
    """Runs tasks on the nodes of a Ray cluster that is running already.

    Tasks, items and results must be picklable and small: paths and settings, never data. A task
    whose worker or node dies is run again, up to three times, so it must be one that can be
    repeated. ``ray.init`` of the caller is used if there was one.

    Parameters
    ----------
    workers
        Largest number of tasks at a time; 0: as many as the cluster has room for.
    address
        ``HOST:PORT`` of a cluster that this machine belongs to; empty: the cluster of this machine.
    needs
        What a task needs: Ray runs it where there is that much.
    folders, files
        Folders that tasks write to, and files and folders that they read; every node must see them.
    check
        Called once on every node, and raises where tasks cannot run.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    UsageError
        There is no such cluster, or a node of it cannot run the tasks.
    WorkerError
        ``check`` failed on a node.
    """

    def __init__(
        self,
        workers: int = 0,
        address: str = "",
        *,
        needs: Resources | None = None,
        folders: Iterable[Path] = (),
        files: Iterable[Path] = (),
        check: Callable[[], object] | None = None,
    ) -> None:
        needs = needs or Resources()
        self._ray = _library()
        self._connected = _connect(self._ray, address)
        self._running: dict[Any, int] = {}
        try:
            _check_nodes(self._ray, [*map(Path.absolute, folders)], [*map(Path.absolute, files)])
            most = _places(self._ray, needs)
            if check is not None:
                _call_on_nodes(self._ray, check)
        except BaseException:
            self.close()
            raise
        self._workers = min(workers, most) if workers else most
        self.several_machines = bool(address) or len(_working_nodes(self._ray)) > 1
        self._remote = self._ray.remote(
            num_cpus=needs.cores,
            num_gpus=needs.gpus,
            memory=None if needs.memory_mb is None else needs.memory_mb * _MB,
            max_retries=RETRIES,
            retry_exceptions=False,
        )(_run)

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of every item, in order."""
        remaining, work = enumerate(items), self._pickled(task)
        for numbered_item in islice(remaining, self._workers):
            self._submit(work, numbered_item)
        return self._results(work, remaining)

    def close(self) -> None:
        """End all tasks, and the connection if it was made here."""
        for reference in self._running:
            with suppress(Exception):  # a node that is gone has nothing to end
                self._ray.cancel(reference, force=True)
        self._running = {}
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def _pickled(self, value: object) -> bytes:
        """Return a pickle of a task or an item; functions of a script come with their code."""
        pickled: bytes = self._ray.cloudpickle.dumps(value)
        return pickled

    def _submit(self, work: bytes, numbered_item: tuple[int, Any]) -> None:
        index, item = numbered_item
        here = str(Path.cwd())  # relative paths of settings mean those of this process
        self._running[self._remote.remote(work, self._pickled(item), here)] = index

    def _results(self, work: bytes, remaining: Iterator[tuple[int, Any]]) -> Iterator[Any]:
        finished: dict[int, tuple[Any, BaseException | None]] = {}
        index, started = 0, len(self._running)
        while True:
            while len(self._running) < self._workers and started < index + 2 * self._workers:
                if (numbered_item := next(remaining, None)) is None:
                    break
                self._submit(work, numbered_item)
                started += 1
            if index in finished:
                result, error = finished.pop(index)
                if error is not None:
                    raise error
                yield result
                index += 1
            elif not self._running:
                return
            else:
                ready, _ = self._ray.wait(list(self._running), timeout=_POLL_S)
                for reference in ready:
                    number = self._running.pop(reference)
                    finished[number] = self._received(reference, number)

    def _received(self, reference: Any, number: int) -> tuple[Any, BaseException | None]:
        """Return the result of a task, or its error."""
        try:
            result, error, trace = pickle.loads(self._ray.get(reference))
        except self._ray.exceptions.RayError as lost:
            reason = described(lost).split("\n", maxsplit=1)[0]
            msg = (
                f"task {number + 1} was lost on the Ray cluster {RETRIES + 1} times, because its "
                f"worker or node died or had too little memory ({reason}): repeat the command, "
                "with fewer tasks at a time"
            )
            return None, WorkerError(msg)
        return result, logged(error, trace, number, self.logs)


def _library() -> Any:
    """Return the module, whose attributes are not typed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as it will be
            import ray
    except ImportError as error:
        purpose = "running tasks on a cluster"
        raise MissingExtraError(library="ray", extra="ray", purpose=purpose) from error
    return ray


def _connect(ray: Any, address: str) -> bool:
    """Connect to the cluster at ``address``; return False if the caller is connected already."""
    if ray.is_initialized():
        return False
    where = f"at {address!r}" if address else "on this machine"
    if address:
        _require_listener(address)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address or "auto", log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises several kinds
        if "ersion mismatch" in str(error):
            msg = (
                f"the Ray cluster {where} has another version of Ray or Python than this process "
                f"({ray.__version__}): {described(error)}; install the same on every machine"
            )
        else:
            msg = (
                f"there is no Ray cluster {where} ({described(error)}): start one with "
                "'ray start', or give ray://HOST:PORT of one that this machine belongs to"
            )
        raise UsageError(msg) from None
    return True


def _require_listener(address: str) -> None:
    """Raise a ``UsageError`` unless HOST:PORT speaks Ray's protocol; Ray itself waits for long."""
    host, _, port = address.rpartition(":")
    is_encrypted = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    try:
        with socket.create_connection((host, int(port)), _CONNECT_S) as connection:
            if not is_encrypted and not _speaks_http_2(connection):
                msg = "what listens there is not Ray"
                raise ConnectionError(msg)
    except (OSError, ValueError, OverflowError) as error:
        reason = described(error) if isinstance(error, OSError) else "it is not HOST:PORT"
        msg = (
            f"there is no Ray cluster at {address!r} ({reason}): give ray://HOST:PORT with what "
            "Ray prints when it is started"
        )
        raise UsageError(msg) from None


def _speaks_http_2(connection: socket.socket) -> bool:
    """Return whether the other side answers with a SETTINGS frame (RFC 9113, section 3.4)."""
    connection.sendall(_PREFACE + _EMPTY_SETTINGS)
    return connection.recv(len(_EMPTY_SETTINGS))[_TYPE] == _EMPTY_SETTINGS[_TYPE]


def _working_nodes(ray: Any) -> list[dict[str, Any]]:
    """Return the nodes that have cores for tasks."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _places(ray: Any, needs: Resources) -> int:
    """Return how many tasks the cluster runs at a time."""
    wanted = {"CPU": needs.cores, "GPU": needs.gpus, "memory": (needs.memory_mb or 0) * _MB}
    nodes = [node["Resources"] for node in _working_nodes(ray)]
    places = sum(
        min(int(node.get(name, 0) / amount) for name, amount in wanted.items() if amount)
        for node in nodes
    )
    if not places:
        units = {"CPU": "cores", "GPU": "GPUs", "memory": "bytes of memory"}
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
        name = next((name for name in wanted if most[name] < wanted[name]), "CPU")
        msg = (
            f"no node of the Ray cluster has {wanted[name]:g} {units[name]} for a task beside what "
            f"else it needs, the largest has {most[name]:g}: ask for less, by fewer threads or as "
            "in ray,gpus=0.25,memory_mb=4000"
        )
        raise UsageError(msg)
    return places


def _check_nodes(ray: Any, folders: list[Path], files: list[Path]) -> None:
    """Raise a ``UsageError`` unless every node can run the tasks and sees folders and files.

    A folder of the same name may be there on a machine that does not share it, so a file is written
    into each for the time of the check.
    """
    token = secrets.token_hex(8)
    probes = [folder / f".kd-offline-{token}" for folder in folders]
    probe = _probe_by_value()
    versions, _ = probe([])
    try:
        for file in probes:
            write_file(file, token)
        paths = [str(path) for path in [*probes, *files]]
        for name, (node_versions, seen) in _answers(ray, probe, paths):
            _require_same_versions(name, node_versions, versions)
            unseen = [path for path, s in zip([*folders, *files], seen, strict=True) if not s]
            if unseen:
                msg = (
                    f"{name} does not see {str(unseen[0])!r}: give a path on a disk that all "
                    "machines share"
                )
                raise UsageError(msg)
    finally:
        for file in probes:
            file.unlink(missing_ok=True)


def _call_on_nodes(ray: Any, check: Callable[[], object]) -> None:
    """Call a function once on every node; raises a ``WorkerError`` with what it raised."""
    work = ray.cloudpickle.dumps(partial(_called, check))
    for name, answer in _answers(ray, _run, work, pickle.dumps(None), str(Path.cwd())):
        _, error, _ = pickle.loads(answer)
        if error is not None:
            failure = WorkerError(f"{name} cannot run the tasks: {error}")
            failure.exit_code = getattr(error, "exit_code", failure.exit_code)
            raise failure


def _called(check: Callable[[], object], item: None) -> None:
    check()


def _answers(ray: Any, function: Callable[..., Any], *given: Any) -> Iterator[tuple[str, Any]]:
    """Call a function on every node, and yield for each its name in words and the result."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote, nodes = ray.remote(num_cpus=0, max_retries=0)(function), _working_nodes(ray)
    answers = [
        remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*given)
        for node in nodes
    ]
    for node, answer in zip(nodes, answers, strict=True):
        name = (
            f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}) of the Ray cluster"
        )
        try:
            result = ray.get(answer, timeout=_CHECK_S)
        except ray.exceptions.RayError as error:
            if node["NodeID"] not in {n["NodeID"] for n in ray.nodes() if n["Alive"]}:
                continue  # it left the cluster in the meantime
            msg = f"{name} cannot run a task ({described(error)}): mend it or take it out"
            raise UsageError(msg) from None
        yield name, result


def _require_same_versions(
    name: str, node_versions: dict[str, str | None], versions: dict[str, str | None]
) -> None:
    for library, version in versions.items():
        other = node_versions.get(library)
        if other != version:
            has = f"no {library}" if other is None else f"{library} {other}"
            msg = (
                f"{name} has {has}, but this process has {version}: install the same version on "
                "every machine"
            )
            raise UsageError(msg)


def _probe_by_value() -> Callable[[list[str]], tuple[dict[str, str | None], list[bool]]]:
    """Return a function that a node without kd-offline can run.

    It returns the versions of what tasks need, and whether files are seen. Ray's pickler names
    functions of modules, and sends the code of functions within functions.
    """
    apart = set(_OF_COMMANDS)

    def probe(files: list[str]) -> tuple[dict[str, str | None], list[bool]]:
        import os
        from importlib import import_module
        from importlib.metadata import entry_points

        def version(library: str) -> str | None:
            try:
                return str(import_module(library).__version__)
            except Exception:
                return None

        versions = {"kd-offline": version("kd_offline"), "Ray": version("ray")}
        every = entry_points()
        groups = {group for group in every.groups if group.startswith("kd_offline.")} - apart
        plug_ins = [entry.dist for group in groups for entry in every.select(group=group)]
        versions |= {dist.name: dist.version for dist in plug_ins if dist is not None}
        seen = [os.path.exists(file) for file in files]  # noqa: PTH110 - sent without our imports
        return versions, seen

    return probe


def _run(work: bytes, item: bytes, folder: str) -> bytes:
    """Run a task on a node; return its pickled result, its error, and the error's traceback."""
    result: Any = None
    failed: Exception | None = None
    trace = ""
    with suppress(OSError):  # a node without it takes absolute paths
        os.chdir(folder)
    try:
        result = pickle.loads(work)(pickle.loads(item))
    except Exception as error:
        failed, trace = portable(error), traceback.format_exc()
    return pickle.dumps((result, failed, trace))
