import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import count, islice
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kd_offline.errors import UnknownNameError, UsageError, UserCodeError, WorkerError
from kd_offline.execution import EXECUTORS, executor, executor_on, processes
from kd_offline.testing.execution import check_executor


def squared(number):
    return number * number


def killed(number, at):
    if number == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_once(number, at, folder):
    with Path(folder, str(number)).open("a") as file:
        file.write("x")
    return killed(number, at if Path(folder, str(number)).read_text() == "x" else None)


def refused(number, error):
    if number == 2:
        raise error
    return number


def unknown(name):
    raise UnknownNameError(what="mask", got=name, allowed=["all"])


LOCAL = [name for name in EXECUTORS.built_in if name != "ray"]  # that has test_ray.py
everywhere = pytest.mark.parametrize("name", LOCAL)


@everywhere
def test_an_executor_keeps_the_rules(name):
    check_executor(partial(executor, name))


@everywhere
def test_results_come_in_order_and_only_as_far_as_they_are_taken(name):
    begun = []

    def items():
        for number in count():
            begun.append(number)
            yield number

    with executor(name, 2) as workers:
        assert list(islice(workers.map(squared, items()), 10)) == [n * n for n in range(10)]
    assert len(begun) <= 10 + 2 * 2


@everywhere
def test_the_error_of_a_task_is_raised_where_its_result_would_be(name):
    error = UserCodeError("environment 'x' failed in step: ValueError: no; correct it")
    with executor(name, 2) as workers:
        results = workers.map(partial(refused, error=error), range(5))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(UserCodeError, match="failed in step"):
            next(results)


def test_an_error_that_no_other_process_can_read_keeps_its_sentence_and_exit_code():
    with executor("processes", 1) as workers:
        results = workers.map(unknown, ["al"])
        with pytest.raises(WorkerError, match="unknown mask 'al': allowed are all") as caught:
            next(results)
    assert caught.value.exit_code == 2


@pytest.mark.skipif(os.name == "nt", reason="no forks there")
def test_workers_begin_also_where_the_process_that_they_are_forks_of_is_killed(monkeypatch):
    kind: Any = multiprocessing.get_context("forkserver").Process
    server: Any = forkserver._forkserver
    start = kind.start
    killed: list[int] = []

    def killed_once(process):
        if not killed:
            killed.append(server._forkserver_pid)
            os.kill(killed[0], signal.SIGKILL)
            raise EOFError
        start(process)

    monkeypatch.setattr(kind, "start", killed_once)
    with executor("processes", 1) as workers:
        assert list(workers.map(abs, [-1, -2])) == [1, 2]
    assert server._forkserver_pid not in (None, *killed)

    def always(process):
        raise EOFError

    monkeypatch.setattr(kind, "start", always)
    with (
        executor("processes", 1) as workers,
        pytest.raises(WorkerError, match="killed when they begin"),
    ):
        workers.map(abs, [-1])


def test_a_task_that_always_kills_its_process_is_one_sentence():
    with executor("processes", 2) as workers:
        results = workers.map(partial(killed, at=1), range(4))
        assert next(results) == 0
        with pytest.raises(WorkerError, match=r"was killed by signal 9 .* \(4 in all\): repeat"):
            next(results)


def test_a_task_whose_process_is_killed_is_run_again_and_no_other(tmp_path):
    with executor("processes", 2) as workers:
        task = partial(killed_once, at=1, folder=str(tmp_path))
        assert list(workers.map(task, range(4))) == list(range(4))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        **dict.fromkeys("023", "x"),
        "1": "xx",
    }


def test_the_traceback_of_a_failed_task_is_kept_in_a_file(tmp_path):
    with (
        executor_on("processes:1", logs=tmp_path) as workers,
        pytest.raises(WorkerError, match=r"unknown mask .*traceback of task 1: '.*task-1.log'"),
    ):
        list(workers.map(unknown, ["al"]))
    assert "in unknown" in (tmp_path / "task-1.log").read_text()


def forks_and_is_killed_once(number, folder):
    """Fork a process that keeps all that this one has open, and stays."""
    note = Path(folder, str(number))
    if number != 1 or note.exists():
        return number
    helper = os.fork()
    if not helper:
        time.sleep(600)
        os._exit(0)
    note.write_text(str(helper))
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def is_there(process):
    """Return whether a process runs; one that has ended may wait to be noticed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition):
    """Wait for long, since the machine may be busy."""
    while not condition():
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told otherwise")
def test_a_task_is_run_again_also_where_what_it_forked_stays_and_that_is_killed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "_POLL_S", 0.05)
    with executor("processes", 2) as workers:
        task = partial(forks_and_is_killed_once, folder=str(tmp_path))
        assert list(workers.map(task, range(4))) == list(range(4))
    wait_until(lambda: not is_there((tmp_path / "1").read_text()))


_WAITING = """
import os, signal, subprocess, sys, time
from functools import partial
from pathlib import Path
from kd_offline.execution import executor, processes

processes._LOADED = []

def waiting(number, folder):
    helper = subprocess.Popen(["sleep", "600"])  # that does not end with this process
    Path(folder, f"{number}.new").write_text(f"{os.getpid()} {helper.pid}")
    Path(folder, f"{number}.new").rename(Path(folder, str(number)))
    try:
        helper.wait()
    finally:
        Path(folder, f"{number}.closed").touch()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told to ignore it
    with executor("processes", 2) as workers:
        list(workers.map(partial(waiting, folder=sys.argv[1]), range(2)))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told otherwise")
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_and_what_they_started_end_with_the_command_however_it_ends(tmp_path, ended_by):
    script = tmp_path / "script.py"
    script.write_text(_WAITING)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    files = [tmp_path / str(k) for k in range(2)]
    wait_until(lambda: all(file.exists() for file in files) or parent.poll() is not None)
    begun = [process for file in files for process in file.read_text().split()]
    parent.send_signal(ended_by)
    assert parent.wait() != 0
    wait_until(lambda: not any(is_there(process) for process in begun))
    assert all(file.with_suffix(".closed").exists() for file in files)


_UNGUARDED = """
from kd_offline.execution import executor, processes

processes._LOADED = []
with executor("processes", 1) as workers:
    list(workers.map(abs, [-1]))
"""


def test_a_script_that_begins_work_when_it_is_imported_is_told_so_at_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_UNGUARDED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "UsageError: the script begins work in processes when it is imported" in done.stderr
    assert done.stderr.endswith("put the call below if __name__ == '__main__':\n")


def test_an_executor_that_does_not_exist_or_has_no_workers_is_refused():
    with pytest.raises(UnknownNameError, match="unknown executor 'thread'"):
        executor("thread", 2)
    with pytest.raises(UsageError, match="cannot have 0 workers: give 1 or more"):
        executor("threads", 0)


@pytest.mark.parametrize("place", ["processes:2", "serial", "threads"])
def test_a_place_is_an_executor_with_a_number_of_workers(place):
    with executor_on(place) as workers:
        assert list(workers.map(squared, range(3))) == [0, 1, 4]


def test_a_place_may_state_what_a_task_needs():
    with pytest.raises(UsageError, match="which only Ray goes by: give 'processes:2' alone"):
        executor_on("processes:2,cores=2,gpus=0.25,memory_mb=500")
    for stated in (
        "gpus=many",
        "gpus=-1",
        "gpus=inf",
        "gpus=1.5",
        "cores=0",
        "cores=1.5",
        "x=2",
        "",
    ):
        with pytest.raises(UsageError, match=r"is no number that a task needs: give cores, gpus"):
            executor_on(f"ray,{stated}")


def test_a_place_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="'processes:many' is no place: give processes:4"):
        executor_on("processes:many")
    with pytest.raises(UsageError, match="cannot have 0 workers"):
        executor_on("processes:0")
    with pytest.raises(UnknownNameError, match="unknown executor 'slurm'"):
        executor_on("slurm:4")


def test_processes_that_do_not_end_are_waited_for_together(monkeypatch):
    now = [0.0]

    class Hanging:
        def join(self, seconds):
            now[0] += seconds

    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: now[0]))
    processes._join([Hanging(), Hanging(), Hanging()], 20.0)
    assert now == [20.0]


@pytest.fixture
def no_server_yet():
    """Stop the process that workers are forks of, before the test and after it."""
    server: Any = forkserver._forkserver
    server._stop()
    yield server
    server._stop()


def holds_interrupts(number):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


_NOTING = """
import os, signal
from pathlib import Path
Path({folder!r}, {name!r}).touch()
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.skipif(os.name == "nt", reason="no forks there")
def test_workers_import_what_this_process_would_and_are_not_interrupted_while_they_load(
    tmp_path, monkeypatch, no_server_yet, capfd
):
    for name in ("cwd", "path"):
        (tmp_path / name).mkdir()
        code = _NOTING.format(folder=str(tmp_path), name=f"imported from {name}")
        (tmp_path / name / "planted_module.py").write_text(code)
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setattr(processes, "_LOADED", [])
    before = dict(os.environ)
    processes.prepare(["planted_module"])
    began = no_server_yet._forkserver_pid
    with executor("processes", 1) as workers:
        assert list(workers.map(holds_interrupts, [0])) == [False]
    assert no_server_yet._forkserver_pid == began
    assert {file.name for file in tmp_path.iterdir()} == {"cwd", "path", "imported from path"}
    assert dict(os.environ) == before
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="no forks there")
def test_workers_begin_also_where_the_folder_of_temporary_files_has_a_long_name(
    tmp_path, monkeypatch, no_server_yet
):
    configuration: Any = multiprocessing.current_process()
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setitem(configuration._config, "tempdir", str(folder))
    with executor("processes", 1) as workers:
        assert list(workers.map(abs, [-1])) == [1]
    assert no_server_yet._forkserver_pid is None
