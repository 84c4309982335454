"""Exports of strangers: nothing is compiled or run unasked, and nothing unlisted is used."""

import hashlib
import json
import os
import shutil

import pytest

from kd_offline.errors import CheckpointError, UsageError
from kd_offline.exports import parity_check
from kd_offline.exports.engines import engine_for, load_export, read_manifest
from kd_offline.exports.export import export
from kd_offline.schemas.export import ExportManifest, FileFact
from kd_offline.sealed_json import read_document, seal, write_document
from tests.unit.exports.conftest import RICH, make_run, needs


@pytest.fixture(scope="module")
def made(buffer, tmp_path_factory):
    """An export in C and for PyTorch."""
    place = tmp_path_factory.mktemp("made")
    run = make_run(place / "run", buffer, RICH)
    export(run.path, place / "out", to=["c", "torch"])
    return place / "out"


@pytest.fixture
def theirs(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


def relisted(folder, **changes):
    """Let export.json list what lies in the folder, as a stranger would."""
    files = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name != "export.json":
            data = file.read_bytes()
            files[name] = FileFact(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    file = folder / "export.json"
    write_document(
        file, read_document(ExportManifest, file, "").model_copy(update=changes | {"files": files})
    )


def marking(path):
    """Return a Makefile that leaves a mark whatever target is asked for."""
    return f"$(shell touch {path})\nall shared test:\n\ttouch {path}\n.DEFAULT:\n\ttouch {path}\n"


@needs("cc", "make")
@pytest.mark.parametrize("name", ["Makefile", "GNUmakefile", "makefile", "agents.mk"])
def test_its_makefile_never_runs_even_where_c_is_asked_for(theirs, tmp_path, episodes, name):
    mark = tmp_path / "it ran"
    (theirs / "c" / name).write_text(marking(mark))
    relisted(theirs)
    said = parity_check.replay(load_export(theirs, "c"), episodes)
    assert not mark.exists()
    assert (said == parity_check.replay(load_export(theirs, "c"), episodes)).all()
    load_export(theirs)
    assert not mark.exists()


@needs("cc", "make")
def test_the_library_has_the_bits_of_the_makefile(made, tmp_path, episodes):
    from kd_offline.exports import c_library

    shutil.copytree(made / "c", tmp_path / "c")
    c_library.make(tmp_path / "c", "shared", tmp_path / "b")
    symbols = [agent.symbol for agent in read_manifest(made).agents]
    c_library.compile_library(tmp_path / "c", symbols, tmp_path / "own.so")
    theirs, own = (tmp_path / "b" / "libstudents.so"), (tmp_path / "own.so")
    strip = ["strip", "--strip-all", "-R", ".note.gnu.build-id"]
    for library in (theirs, own):
        c_library._run([*strip, str(library)], "strip", tmp_path)
    assert theirs.read_bytes() == own.read_bytes()


def test_c_is_never_chosen_where_nobody_asked_for_it(theirs):
    shutil.rmtree(theirs / "torch")
    relisted(theirs, formats=("c",))
    with pytest.raises(UsageError, match="would be compiled and run here") as caught:
        load_export(theirs)
    assert "pass engine='c'" in str(caught.value)
    manifest = read_manifest(theirs)
    assert engine_for(manifest, "c") == "c"
    assert engine_for(manifest.model_copy(update={"formats": ("c", "torch")}), None) == "numpy"
    assert engine_for(manifest.model_copy(update={"formats": ("onnx", "c")}), None) == "onnx"


@pytest.mark.parametrize(
    "name",
    [
        *("c/GNUmakefile", "c/makefile", "c/MAKEFILE", "c/extra.h", "GNUmakefile", "torch/x.py"),
        *("c/.hidden", "evaluation.json.x", "c/evaluation.json", "other/file"),
    ],
)
def test_a_file_that_is_not_listed_is_refused(theirs, name):
    (theirs / name).parent.mkdir(exist_ok=True)
    (theirs / name).write_text("x")
    with pytest.raises(CheckpointError, match=r"is not among the files that export\.json lists"):
        load_export(theirs)


def test_links_are_refused_whatever_they_lead_to(theirs, tmp_path):
    kernels = theirs / "c" / "kernels.h"
    shutil.copy(kernels, tmp_path / "same")
    kernels.unlink()
    kernels.symlink_to(tmp_path / "same")
    with pytest.raises(CheckpointError, match=r"is not the file that export\.json lists"):
        load_export(theirs)
    kernels.unlink()
    shutil.copy(tmp_path / "same", kernels)
    load_export(theirs)
    (theirs / "torch").rename(tmp_path / "torch")
    (theirs / "torch").symlink_to(tmp_path / "torch")
    with pytest.raises(CheckpointError, match="torch' is not among the files"):
        load_export(theirs)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(theirs):
    (theirs / "c" / "kernels.h").unlink()
    os.mkfifo(theirs / "c" / "kernels.h")
    with pytest.raises(CheckpointError, match=r"is not the file that export\.json lists"):
        load_export(theirs)


def test_what_we_and_its_user_put_beside_an_export_is_no_stranger(theirs):
    for name in ("evaluation.json", "profile.json", "c/build/test_kd", "torch/__pycache__/r.pyc"):
        (theirs / name).parent.mkdir(exist_ok=True)
        (theirs / name).write_text("x")
    load_export(theirs)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"symbol": "kd_agent_0"', '"symbol": "../../kd_agent_0"'),
        ('"symbol": "kd_agent_0"', '"symbol": "-fplugin=x"'),
        ('"symbol": "kd_agent_0"', '"symbol": "@file"'),
        ('"c/kernels.h"', '"../kernels.h"'),
        ('"c/kernels.h"', '"/etc/passwd"'),
        ('"c/kernels.h"', '"c//kernels.h"'),
    ],
)
def test_names_that_lead_elsewhere_are_no_names(theirs, old, new):
    text = (theirs / "export.json").read_text()
    assert old in text
    document = json.loads(text.replace(old, new))
    del document["digest"]
    (theirs / "export.json").write_bytes(seal(document, "digest"))
    where = r"export\.json'? is .*: (agents\.0\.symbol|files\.)"
    with pytest.raises(CheckpointError, match=where):
        load_export(theirs)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_the_bytes_that_run_are_the_bytes_that_were_checked(theirs, episodes, monkeypatch, engine):
    """The folder is changed between the check and the opening."""
    from kd_offline.exports import engines

    before = parity_check.replay(load_export(theirs, engine), episodes)
    weights = theirs / "torch" / "students.safetensors"
    kind, opening = engines.ENGINES[engine]

    def late(folder, agents):
        weights.write_bytes(b"changed since")
        assert folder != theirs
        return opening(folder, agents)

    monkeypatch.setitem(engines.ENGINES, engine, (kind, late))
    assert (parity_check.replay(load_export(theirs, engine), episodes) == before).all()
    assert weights.read_bytes() == b"changed since"
