"""Files are written by kd_offline/files.py alone, so that nothing is written through a link."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "kd_offline"

_ASIDE = "in the folder of files.aside, which is ours alone"
_NAME = "removes a name, follows nothing"
ALLOWED = {
    ("files.py", "*"): "the one writer",
    ("execution/ray.py", "unlink"): "an empty file of a random name that was just made",
    ("file_locks.py", "open"): "new files of a random name or none, and nothing is written",
    ("datasets/storage/safe_open.py", "*"): "plain files of a dataset: exclusive, no links",
    ("datasets/storage/store.py", "replace"): "chunks: one locked writer, the file aside is new",
    ("datasets/storage/store.py", "unlink"): _NAME,
    ("datasets/storage/store.py", "truncate"): "of the file that was just made",
    ("datasets/storage/cache.py", "unlink"): _NAME,
    ("datasets/writing/destination.py", "replace"): "the manifest becomes the journal, in one step",
    ("datasets/sharing/targets.py", "unlink"): _NAME,
    ("recording/divided.py", "unlink"): _NAME,
    ("execution/parts.py", "rmdir"): "of an empty folder of parts, whose lock is held",
    ("datasets/sharing/targets.py", "rmdir"): "of the empty folder that was made here",
    ("datasets/sharing/share.py", "ZipFile"): _ASIDE,
    ("datasets/convert/hdf5_writing.py", "File"): _ASIDE,
    ("datasets/convert/hdf5_writing.py", "open"): _ASIDE,
    ("datasets/convert/minari/exporter.py", "mkdir"): _ASIDE,
    ("datasets/convert/vault/exporter.py", "mkdir"): _ASIDE,
    ("cli/streams.py", "FileIO"): "of the standard streams",
    ("cli/streams.py", "open"): "the null device",
    ("environments/smac/process.py", "TemporaryFile"): "has no name",
    ("environments/smac/worker.py", "fdopen"): "of the standard streams",
    ("environments/smac/worker.py", "open"): "the null device",
    ("environments/smax/environment.py", "mkdir"): "in the user's own cache",
    ("evaluation/engines.py", "mkdir"): "in a temporary folder",
}
"""(module, call): why it may."""

_ALWAYS = {
    *("write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "rename", "unlink"),
    *("mkdir", "rmdir", "rmtree", "copy2", "copyfile", "copytree", "makedirs", "removedirs"),
    *("symlink", "fdopen", "FileIO", "TemporaryFile", "NamedTemporaryFile"),
    *("mkstemp", "mktemp", "save_file", "savez", "savetxt", "tofile", "extractall", "extract"),
}
_OF_THE_SYSTEM = {"open", "truncate", "copy", "link", "remove", "move"}
_BY_MODE = {"open", "File", "ZipFile", "TarFile", "memmap"}


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the name and line of every call that writes to the file system."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name):
            name, owner = function.id, ""
        elif isinstance(function, ast.Attribute):
            name = function.attr
            owner = function.value.id if isinstance(function.value, ast.Name) else ""
        else:
            continue
        if (
            name in _ALWAYS
            or (name in _OF_THE_SYSTEM and owner in ("os", "shutil"))
            or (name in _BY_MODE and _writes(node))
            or (name == "replace" and len(node.args) == 1 and not node.keywords)
            or (name == "replace" and owner == "os")
            or (name == "save" and owner in ("torch", "np", "numpy", "onnx"))
        ):
            yield name, node.lineno


def _writes(node: ast.Call) -> bool:
    given = [*node.args, *(word.value for word in node.keywords)]
    modes = [x.value for x in given if isinstance(x, ast.Constant) and isinstance(x.value, str)]
    return any(len(mode) <= 3 and set(mode) & set("wax+") for mode in modes)


MODULES = {file.relative_to(PACKAGE).as_posix(): file for file in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_one_writer_writes(module):
    if (module, "*") in ALLOWED:
        return
    for name, line in calls(ast.parse(MODULES[module].read_text("utf-8"))):
        assert (module, name) in ALLOWED, (
            f"kd_offline/{module}:{line} calls {name}: use kd_offline.files, or say why not"
        )


def test_every_exception_is_used():
    for module, name in ALLOWED:
        found = {found for found, _ in calls(ast.parse(MODULES[module].read_text("utf-8")))}
        assert found & {name} or (name == "*" and found), (module, name)


@pytest.mark.parametrize(
    "line",
    [
        'open("x", "w")',
        'path.open("ab")',
        'path.open(mode="x")',
        'path.write_text("")',
        "path.write_bytes(data)",
        "os.replace(a, b)",
        "aside.replace(path)",
        "shutil.copy(a, b)",
        "shutil.rmtree(a)",
        "os.open(a, flags)",
        'h5py.File(path, "w")',
        "torch.save(a, b)",
        'zipfile.ZipFile(path, "w")',
    ],
)
def test_what_writes_is_recognised(line):
    assert list(calls(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    ['open("file")', 'path.open("rb")', 'text.replace("a", "b")', "dict.copy()", "shutil.which(a)"],
)
def test_what_does_not_write_is_left_alone(line):
    assert not list(calls(ast.parse(line)))
