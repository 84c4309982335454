"""Any edit of any files of a dataset: an error that is ours, or exactly the right values."""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kd_offline.datasets.format import layout
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.validation.integrity import verify
from kd_offline.errors import KdOfflineError
from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests.properties import examples

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@cache
def original():
    """Return the files of a dataset of several chunks, and its values."""
    before = layout.MAX_CHUNK_ROWS, layout.MIN_CHUNK_ROWS
    layout.MAX_CHUNK_ROWS = layout.MIN_CHUNK_ROWS = 8
    try:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            spec = environment_spec((4, 2), (3, 2))
            buffer = tiny_dataset(Path(folder) / "d", lengths=[5, 7], spec=spec)
            values = buffer.load(buffer.names)
            files = {
                file.relative_to(buffer.path).as_posix(): file.read_bytes()
                for file in sorted(buffer.path.rglob("*"))
                if file.is_file()
            }
    finally:
        layout.MAX_CHUNK_ROWS, layout.MIN_CHUNK_ROWS = before
    return files, values


@st.composite
def edits(draw):
    """Return what some files hold afterwards; None: deleted."""
    files, _ = original()
    names = sorted(files)
    changed: dict[str, bytes | None] = {}
    for _ in range(draw(st.integers(1, 3))):
        name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        data = changed.get(name, files[name]) or b""
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 64)))
        kind = draw(st.sampled_from(["flip", "insert", "cut", "end", "delete", "swap", "copy"]))
        if kind == "flip" and start < len(data):
            bit = bytes([data[start] ^ 1 << draw(st.integers(0, 7))])
            changed[name] = data[:start] + bit + data[start + 1 :]
        elif kind == "insert":
            changed[name] = data[:start] + draw(st.binary(max_size=8)) + data[start:]
        elif kind == "cut":
            changed[name] = data[:start] + data[stop:]
        elif kind == "end":
            changed[name] = data[:start]
        elif kind == "delete":
            changed[name] = None
        elif kind == "swap":
            changed[name], changed[other] = files[other], files[name]
        elif kind == "copy":
            changed[name] = files[other]
    return changed


def refused(root):
    """Tell whether ordinary reading raises an error that is ours and names the dataset."""
    try:
        buffer = ExpertBuffer.open(root)
        buffer.load(buffer.names)
    except KdOfflineError as error:
        return str(root) in str(error)
    return False


def same_values(root, values):
    got = ExpertBuffer.open(root).load(values)
    return all(np.array_equal(got[name], values[name]) for name in values)


@examples(50)
@given(edits())
def test_never_a_silent_wrong_value(changed):
    files, values = original()
    changed = {name: data for name, data in changed.items() if data != files[name]}
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        root = Path(folder)
        for name, data in (files | changed).items():
            if data is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)
        assert refused(root) or same_values(root, values)
        try:
            whole = verify(root).ok
        except KdOfflineError:
            whole = False
        assert whole == (not changed)


def test_the_original_is_whole(tmp_path):
    files, _ = original()
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert verify(tmp_path).ok
    shutil.rmtree(tmp_path)
