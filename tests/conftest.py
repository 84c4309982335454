"""What holds for every test."""

import gc
import html
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kd_offline.tracking import progress_bar

PLUGINS = Path(__file__).parent / "plugins"

# Compiled test modules and ours are kept whatever the machine says: each of the many processes that
# tests start would compile them again.
sys.dont_write_bytecode = False


def pytest_collection_finish():
    """From here on, modules that tests write leave nothing beside them and are read as they are."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    gc.collect()
    gc.freeze()  # what was imported stays: looking through it at every full collection is dear
    gc.set_threshold(10_000, 20, 20)  # a full collection after millions of new objects, not 70,000


@pytest.fixture(autouse=True)
def one_thread():
    """Begin with one thread, whatever a command of an earlier test set: sums depend on it."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_progress_by_the_clock():
    """Stop the clock of the progress bar: lines that come after seconds come on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: 0.0))
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures of pages empty, where pages are not what is tested: drawing takes long."""

    def inline(figure, name, title):
        return f'<svg viewBox="0 0 1 1" role="img" aria-label="{html.escape(title)}"></svg>'

    monkeypatch.setattr("kd_offline.reports.svg.inline", inline)


@pytest.fixture(scope="session")
def installed_plugins(tmp_path_factory):
    """Return the folder into which pip installed the package of tests/plugins."""
    target = tmp_path_factory.mktemp("plugins")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    done = subprocess.run([*pip, str(PLUGINS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def plugins(installed_plugins, monkeypatch):
    """Let the package of tests/plugins be installed during a test; return its folder."""
    monkeypatch.syspath_prepend(installed_plugins)
    return installed_plugins


@pytest.fixture
def other_version(installed_plugins, tmp_path, monkeypatch):
    """Return what installs version 0.2.0 of the package in place of 0.1.0."""

    def install():
        newer = tmp_path / "newer"
        shutil.copytree(installed_plugins, newer)
        (old,) = newer.glob("*.dist-info")
        info = old.rename(newer / old.name.replace("0.1.0", "0.2.0"))
        metadata = (info / "METADATA").read_text().replace("Version: 0.1.0", "Version: 0.2.0")
        (info / "METADATA").write_text(metadata)
        monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(installed_plugins)])
        monkeypatch.syspath_prepend(newer)

    return install
