"""``kd-offline`` in forked children, so that many real runs pay for one start; kills on request.

A script of its own: it reads one job a line from stdin and answers each with one line of JSON.
Chunks are small and the journal is written after every batch, so that there are many instants at
which a kill could hurt.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

from kd_offline.cli.app import app
from kd_offline.datasets.format import layout
from kd_offline.datasets.writing import dataset_files
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.recording import record  # loads PyTorch before the forks
from kd_offline.tracking import progress_bar
from kd_offline.tracking.progress_bar import ProgressBar

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")


def watch(root: str, at: int | None, counted: Path) -> None:
    """Count what happens to files below ``root``; die by SIGKILL just before number ``at``."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in EVENTS and str(arguments[0]).startswith(root):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
            if at is None:
                os.pwrite(counter, f"{seen}\n".encode(), 0)

    counter = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.addaudithook(hook)


def interrupt(unit: str, at: int) -> None:
    """Send this process Ctrl-C as soon as its progress is ``at``, in ``unit``."""
    # A shell that runs the tests in the background has Ctrl-C ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    show = ProgressBar.progress

    def progress(self: ProgressBar, done: int, total: int, of: str) -> None:
        show(self, done, total, of)
        if (of, done) == (unit, at):
            os.kill(os.getpid(), signal.SIGINT)

    ProgressBar.progress = progress  # type: ignore[assignment,method-assign]


def run(job: dict) -> None:
    """Be the command ``job["arguments"]``; never returns."""
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if job.get("watch"):
        watch(job["watch"], job.get("kill_at"), Path(job["counted"]))
    if job.get("interrupt"):
        interrupt(*job["interrupt"])
    try:
        app(job["arguments"], prog_name="kd-offline")
    except SystemExit as left:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(left.code if isinstance(left.code, int) else 1)
    os._exit(3)


def main() -> None:
    """Serve until stdin ends."""
    layout.MAX_CHUNK_ROWS = layout.MIN_CHUNK_ROWS = 256
    dataset_files._JOURNAL_SHARE = 0
    vars(progress_bar)["time"] = SimpleNamespace(monotonic=lambda: 0.0)  # prints no line on time
    record.step_bytes = lambda *_: 0  # as if others took the room after it was estimated
    DatasetWriter.create.__func__.__kwdefaults__["journal_seconds"] = 0.0  # type: ignore[attr-defined]
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            run(job)
        timer = threading.Timer(job.get("kill_after") or 3600, os.kill, (child, signal.SIGKILL))
        timer.start()
        status = os.waitpid(child, 0)[1]
        timer.cancel()
        timer.join()
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
