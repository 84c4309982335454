"""Trials in a database: SQLite, and a PostgreSQL server of this machine."""

import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from kd_offline.errors import CheckpointError, KdOfflineError, StorageError, UsageError
from kd_offline.sweeps import studies
from kd_offline.sweeps.studies import DatabaseStore, JournalStore, registered_worker
from kd_offline.sweeps.sweep import sweep
from kd_offline.untrusted_text import without_password
from tests.unit.sweeps.test_trials_workers import PLAN, dataset  # noqa: F401

PASSWORD = "{s%3Acret}"


def program(name):
    """Return a program of PostgreSQL, which Debian keeps out of the path; None: not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


@pytest.fixture(scope="module")
def server():
    """Return the address of a PostgreSQL server, with a user whose password is asked for."""
    pytest.importorskip("psycopg")
    initdb, postgres = program("initdb"), program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed")
    who = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
    run_as: dict[str, Any] = {"user": who} if os.getuid() == 0 else {}  # it refuses to run as root
    with tempfile.TemporaryDirectory() as temporary, socket.socket() as free:
        folder = Path(temporary)
        (folder / "password").write_text(PASSWORD)
        if run_as:
            for path in (folder, folder / "password"):
                shutil.chown(path, who)
        options: list[Any] = [
            "-U",
            "me",
            "-A",
            "scram-sha-256",
            "--pwfile",
            folder / "password",
            "--no-sync",
        ]
        run: dict[str, Any] = {"cwd": folder, "capture_output": True, "check": True, **run_as}
        subprocess.run([initdb, "-D", folder / "data", "-E", "UTF8", *options], **run)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        flags: list[Any] = [
            "-D",
            folder / "data",
            "-k",
            folder,
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-F",
        ]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([postgres, *flags], cwd=folder, **quiet, **run_as)
        for _ in range(1200):
            if (folder / f".s.PGSQL.{port}").exists():
                break
            time.sleep(0.1)
        quoted = PASSWORD.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        yield f"postgresql://me:{quoted}@127.0.0.1:{port}/postgres"
        process.send_signal(signal.SIGINT)
        process.wait()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """Return the address of a database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'trials.db'}"
    return request.getfixturevalue("server")


def states(folder, url):
    study = DatabaseStore(folder, url).open(["maximize", *["minimize"] * 3])
    return [trial.state.name for trial in study.get_trials()]


_HANGS = """
import sys, time
from tests.unit.sweeps.test_trials_workers import PLAN
from kd_offline.sweeps import sweep, trials
def hang(*arguments, **named):
    print("at work", flush=True)
    time.sleep(600)
trials.distill = hang
sweep.sweep(sys.argv[1], sys.argv[2], trials=1, storage=sys.argv[3], **PLAN)
"""


@pytest.mark.usefixtures("dataset")
def test_a_trial_whose_heart_stopped_is_run_again(dataset, url, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "sweep"
    command = [sys.executable, "-c", _HANGS, str(dataset), str(folder), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"at work\n"
        assert states(folder, url) == ["RUNNING"]
        process.send_signal(signal.SIGKILL)
    monkeypatch.setattr(studies, "GRACE_S", 1)
    time.sleep(1.5)  # else a new trial comes first, with the same choice and so the same point
    report = sweep(dataset, folder, trials=2, storage=url, **PLAN)
    assert states(folder, url) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "runs/0000" in {point.run for point in report.points}
    assert not (folder / studies.JOURNAL).exists()
    for file in folder.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes()
        assert not file.is_file() or url.encode() not in file.read_bytes()


_KILLS = """
import os, signal, sys
from pathlib import Path
from tests.unit.sweeps.test_trials_workers import PLAN
from kd_offline.sweeps import sweep, trials
distill, killed = trials.distill, Path(sys.argv[4])
def dies_once(dataset, run, *arguments, **named):
    if run.name == "0001" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return distill(dataset, run, *arguments, **named)
trials.distill = dies_once
if __name__ == "__main__":
    sweep.sweep(sys.argv[1], sys.argv[2], trials=3, on="processes:2", storage=sys.argv[3], **PLAN)
"""


def test_the_trial_of_a_killed_worker_is_run_again_and_all_are_complete(dataset, tmp_path):  # noqa: F811
    (tmp_path / "script.py").write_text(_KILLS)
    url, killed = f"sqlite:///{tmp_path / 'trials.db'}", tmp_path / "killed"
    command = [tmp_path / "script.py", dataset, tmp_path / "sweep", url, killed]
    subprocess.run([sys.executable, *map(str, command)], check=True)
    assert killed.exists()
    assert states(tmp_path / "sweep", url) == ["COMPLETE"] * 3


def test_an_interrupted_sweep_makes_the_choices_of_one_that_was_not(dataset, tmp_path, monkeypatch):  # noqa: F811
    from kd_offline.distillation.distill import distill
    from kd_offline.sweeps import trials

    whole = sweep(dataset, tmp_path / "whole", trials=3, seed=3, **PLAN)
    calls: list[Any] = []

    def interrupted_at_the_second(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return distill(*arguments, **named)

    monkeypatch.setattr(trials, "distill", interrupted_at_the_second)
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    for folder, storage in ((tmp_path / "journal", None), (tmp_path / "database", url)):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            sweep(dataset, folder, trials=3, seed=3, storage=storage, **PLAN)
        report = sweep(dataset, folder, trials=3, seed=3, storage=storage, **PLAN)
        assert {point.widths for point in report.points} == {p.widths for p in whole.points}
        by_widths = {point.widths: point.quality for point in whole.points}
        assert all(by_widths[point.widths] == point.quality for point in report.points)


def test_no_message_of_a_database_has_its_password(server, tmp_path):
    (tmp_path / "sweep").mkdir()
    wrong = server.replace("cret", "crets")
    store = DatabaseStore(tmp_path / "sweep", wrong)
    with pytest.raises(Exception, match="password authentication failed") as caught:
        store.open(["maximize"])
    failure = store.failure(caught.value)
    assert "me@127.0.0.1" in str(failure)
    assert "see that it runs and takes this user" in str(failure)
    assert "crets" not in str(failure)
    assert store.failure(ValueError("of something else")) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/d", "postgresql://me@host:5432/d"),
        ("postgresql://me:se@cret@host/d", "postgresql://me@host/d"),
        ("postgresql://host/d?user=me&password=secret", None),
        ("mysql://me:secret@host/d", "mysql://me@host/d"),
        ("me:secret@host", "***@host"),
        ("sqlite:///trials.db", "sqlite:///trials.db"),
    ],
)
def test_an_address_is_shown_without_its_password(url, shown, tmp_path):
    shown = shown or "postgresql://host/d?user=me&password=***"
    assert without_password(url) == shown


@pytest.mark.parametrize("url", ["mysql://me:secret@h/d", "nonsense", "sqlite://", "redis://h", ""])
def test_another_kind_of_address_is_refused(url, tmp_path):
    with pytest.raises(UsageError, match=r"is no database .*: give sqlite:///FILE or") as caught:
        DatabaseStore(tmp_path, url)
    assert "secret" not in str(caught.value)


def test_a_sweep_stays_where_it_was_begun(dataset, tmp_path):  # noqa: F811
    first, second = (f"sqlite:///{tmp_path / name}.db" for name in ("first", "second"))
    sweep(dataset, tmp_path / "kept", trials=1, storage=first, **PLAN)
    sweep(dataset, tmp_path / "other", trials=1, storage=first, **PLAN)  # beside it
    with pytest.raises(StorageError, match="are in a database: name it with storage"):
        sweep(dataset, tmp_path / "kept", trials=1, **PLAN)
    with pytest.raises(CheckpointError, match="does not have the trials of the sweep"):
        sweep(dataset, tmp_path / "kept", trials=1, storage=second, **PLAN)
    sweep(dataset, tmp_path / "journal", trials=1, **PLAN)
    with pytest.raises(StorageError, match="was begun with a journal"):
        sweep(dataset, tmp_path / "journal", trials=1, storage=first, **PLAN)
    (tmp_path / "kept" / studies.STUDY).write_text("kd-offline'; drop table trials\n")
    with pytest.raises(CheckpointError, match="names no sweep"):
        sweep(dataset, tmp_path / "kept", trials=1, storage=first, **PLAN)


def test_a_database_that_is_none_is_one_sentence(dataset, tmp_path):  # noqa: F811
    (tmp_path / "trials.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"cannot be used .*see that it runs"):
        sweep(dataset, tmp_path / "s", storage=f"sqlite:///{tmp_path / 'trials.db'}", **PLAN)


@pytest.fixture(scope="module")
def begun(dataset, tmp_path_factory):  # noqa: F811
    """Return a folder with a sweep of one trial and its database."""
    folder = tmp_path_factory.mktemp("begun")
    sweep(dataset, folder / "s", trials=1, storage=f"sqlite:///{folder / 'trials.db'}", **PLAN)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "update trial_user_attributes set value_json = '1' where key = 'point'",
            "was damaged",
        ),
        ("update trial_params set param_value = 99", "is damaged"),
        ("update trial_params set distribution_json = 'x'", "is damaged"),
        ("update alembic_version set version_num = 'x'", "cannot be used"),
        ("drop table trials", "does not have the trials"),
    ],
)
def test_a_database_that_was_altered_is_refused(dataset, begun, tmp_path, change, words):  # noqa: F811
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "trials.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(change)
    with pytest.raises(KdOfflineError, match=words):
        sweep(dataset, tmp_path / "s", trials=2, storage=f"sqlite:///{file}", **PLAN)


@pytest.mark.skipif(os.name == "nt", reason="no such locks there")
def test_a_journal_on_which_another_machine_works_is_refused(tmp_path, monkeypatch):
    store = JournalStore(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "n7")
    with registered_worker(tmp_path):
        with store.working():
            pass
        monkeypatch.undo()
        with (
            pytest.raises(
                StorageError, match=r"machine 'n7' works on the sweep .* for one machine"
            ),
            store.working(),
        ):
            pass
    with store.working():
        pass
