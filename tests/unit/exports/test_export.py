import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import kd_offline
from kd_offline.errors import (
    EXIT_FAILED,
    CheckpointError,
    KdOfflineError,
    MismatchError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from kd_offline.exports import export as module
from kd_offline.exports import onnx_graph, parity_check, tensors
from kd_offline.exports.engines import ENGINES, load_export, read_manifest
from kd_offline.exports.export import export
from kd_offline.exports.parity_check import ParityError
from kd_offline.networks import quantise
from kd_offline.students.policy import load
from tests.documents import check_document
from tests.sealing import resealed_tensors
from tests.unit.exports.conftest import KINDS, SPEC, make_run, needs, same

pytestmark = needs("cc", "make")
ALL = ("onnx", "c", "torch")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, buffer):
    """A run and both its exports in every format."""
    from tests.unit.exports.conftest import RICH

    place = tmp_path_factory.mktemp("whole")
    run = make_run(place / "run", buffer, RICH)
    fp32 = export(run.path)
    int8 = export(run.path, precision="int8", seed=4, least_agreement=0.5)
    return run, fp32, int8


def test_everything_is_there_and_is_described(whole):
    run, fp32, int8 = whole
    for manifest, folder in ((fp32, run.path / "export"), (int8, run.path / "export-int8")):
        text = json.loads((folder / "export.json").read_text())
        check_document(text, "export")
        assert read_manifest(folder) == manifest
        assert manifest.formats == ALL
        found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert set(manifest.files) == found - {"export.json"}
        assert {f"onnx/kd_agent_{i}.onnx" for i in range(3)} <= found
        assert {"c/Makefile", "c/kd_agent_0.c", "torch/reader.py"} <= found
    assert (fp32.seed, int8.seed) == (3, 4)
    assert not list(run.path.glob(".*"))


def test_the_gate_says_what_it_measured(whole, episodes):
    _, fp32, int8 = whole
    assert set(fp32.gate.engines) == set(int8.gate.engines) == set(ENGINES)
    for manifest in (fp32, int8):
        assert manifest.gate.episodes == 3
        assert manifest.gate.steps == episodes.steps
        for found in manifest.gate.engines.values():
            assert found.agreement == 1.0
            assert found.logit_error < 1e-4
    assert fp32.gate.precision.agreement == 1.0
    assert 0.9 < int8.gate.precision.agreement <= 1.0
    assert int8.gate.precision.logit_error > 1e-3
    sizes = [sum(agent.parameter_bytes for agent in m.agents) for m in (fp32, int8)]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_plays_the_exported_team(whole, engine, episodes):
    run, fp32, _ = whole
    said = parity_check.replay(load_export(run.path / "export", engine), episodes)
    same(said, parity_check.replay(load(run.path)[0], episodes), episodes)
    assert fp32.students == run.manifest().results[0].digest


def test_metadata_carry_the_mask_and_the_digests(whole):
    onnx = pytest.importorskip("onnx")
    run, fp32, _ = whole
    model = onnx.load(run.path / "export" / "onnx" / "kd_agent_1.onnx")
    facts = {p.key: p.value for p in model.metadata_props}
    mask = {"seen": [0, 2, 3], "blocks": {"own": [0], "others": [2, 3]}, "drawn": False}
    assert json.loads(facts["mask_contract"]) == mask
    assert facts["agent"] == "agent_1"
    assert (facts["students"], facts["dataset"]) == (fp32.students, fp32.dataset)
    assert "zero" in facts["reset"]


def test_the_reader_runs_without_us(whole, tmp_path, episodes):
    """A few lines, PyTorch and safetensors: no other module of ours is imported."""
    run = whole[0]
    shutil.copytree(run.path / "export" / "torch", tmp_path / "carried")
    assert len((tmp_path / "carried" / "reader.py").read_text().splitlines()) <= 100
    code = (
        "import sys, json, torch\n"
        "sys.modules['kd_offline'] = None\n"
        "sys.path.insert(0, 'carried')\n"
        "from reader import load\n"
        "agent = load('carried/students.safetensors')['agent_0']\n"
        "memory = torch.zeros(1, agent.facts['memory_width'])\n"
        "legal = torch.ones(1, 5, dtype=torch.bool)\n"
        "out = []\n"
        "for k in range(3):\n"
        "    obs = torch.full((1, agent.facts['inputs']), 0.1 * k)\n"
        "    action, logits, memory = agent.step(obs, legal, memory)\n"
        "    out.append([int(action), logits[0].tolist()])\n"
        "print(json.dumps(out))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    agents = whole[1].agents
    file = tensors.read(run.path / "export" / "torch" / tensors.WEIGHTS, agents)
    network = tensors.networks(file, agents)[0]
    memory = np.zeros((1, network.memory_width), np.float32)
    for k, (action, logits) in enumerate(json.loads(done.stdout)):
        obs = np.full((1, network.inputs), 0.1 * k, np.float32)
        wanted, said, memory = network.step(obs, np.ones((1, 5), bool), memory)
        assert action == wanted[0]
        assert logits == pytest.approx(said[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", [KINDS[1], KINDS[5]], ids=str)
def test_other_masks_travel_too(kind, buffer, tmp_path, episodes, monkeypatch):
    run = make_run(tmp_path / "run", buffer, kind)
    if kind.mask == "drawn":  # a mask that differs by episode, as the dataset would hold it
        drawn = np.ones((buffer.n_episodes, SPEC.n_agents, SPEC.obs_width), bool)
        monkeypatch.setattr(type(buffer), "mask", lambda self, name: drawn)
    manifest = export(run.path, tmp_path / "out", to="torch")
    said = parity_check.replay(load_export(tmp_path / "out"), episodes)
    same(said, parity_check.replay(load(run.path)[0], episodes), episodes)
    assert manifest.agents[0].drawn == (kind.mask == "drawn")


def test_the_same_run_gives_the_same_export(whole, tmp_path):
    run, fp32, _ = whole
    assert export(run.path, tmp_path / "again") == fp32


def test_a_broken_export_is_refused_and_nothing_is_written(run, tmp_path, monkeypatch):
    """Weights that are altered on their way into a file."""
    write = onnx_graph.write

    def altered(path, network, facts):
        network.head.bias[:] += np.float32(0.01)
        write(path, network, facts)

    monkeypatch.setattr(onnx_graph, "write", altered)
    with pytest.raises(ParityError, match="the onnx export is refused") as raised:
        export(run.path, tmp_path / "out", to="onnx")
    assert raised.value.exit_code == EXIT_FAILED
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_failure_keeps_the_export_that_was_there(run, tmp_path, monkeypatch):
    export(run.path, tmp_path / "out", to="torch")
    before = (tmp_path / "out" / "export.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_manifest", full)
    with pytest.raises(StorageError, match="No space left"):
        export(run.path, tmp_path / "out", to="torch", overwrite=True)
    assert (tmp_path / "out" / "export.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_int8_that_changes_too_many_actions_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "LEVELS", 2)
    with pytest.raises(ParityError, match="lower least_agreement or export as fp32"):
        export(run.path, tmp_path / "out", to="torch", precision="int8")
    assert not (tmp_path / "out").exists()


def edited(run, **changes):
    run.write_manifest(run.manifest().model_copy(update=changes))


def altered_weights(run, buffer, tmp_path):
    other = make_run(tmp_path / "other", buffer, KINDS[0], seeds=(5, 6))
    content = other.students.read_bytes().replace(b'"5.', b'"3.').replace(b'"6.', b'"4.')
    run.students.write_bytes(content)
    resealed_tensors(run.students, "[5,6]", "[3,4]")


def altered_mask(run, buffer, tmp_path):
    content = run.students.read_bytes()
    before, after = "[true,true,true,false,false,false]", "[true,true,false,true,false,false]"
    assert content.count(before.encode()) == 1
    resealed_tensors(run.students, before, after)


ALTERED = {
    "weights": (altered_weights, CheckpointError, "are not the ones that its run.json describes"),
    "mask": (altered_mask, MismatchError, "differ about the environment or the mask"),
    "dataset": (
        lambda run, *_: edited(
            run,
            dataset=run.manifest().dataset.model_copy(update={"id": "sha256:" + "1" * 64}),
        ),
        KdOfflineError,
        "the run was distilled from|not the ones",
    ),
    "status": (lambda run, *_: edited(run, status="running"), UsageError, "finish it"),
    "method mask": (lambda run, *_: edited(run, mask="full"), CheckpointError, "was altered"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_altered_runs_are_refused(what, run, buffer, tmp_path):
    alter, error, words = ALTERED[what]
    alter(run, buffer, tmp_path)
    with pytest.raises(error, match=words):
        export(run.path, tmp_path / "out", to="torch")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"to": "tflite"}, "unknown format 'tflite': allowed are onnx, c, torch, all"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"seed": 9}, "unknown seed of the run '9': allowed are 3, 4"),
        ({"episodes": 0}, "compare nothing: give 1 or more"),
        (
            {"to": "onnx", "microcontrollers": True},
            "to='c' or leave out microcontrollers",
        ),
        ({"dataset": "nowhere.zarr"}, "is not there: pass its place as dataset"),
    ],
)
def test_wrong_wishes_are_refused(wrong, words, run, tmp_path):
    with pytest.raises(UsageError, match=words):
        export(run.path, tmp_path / "out", **({"to": "torch"} | wrong))


def test_what_is_in_the_way_is_kept(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(StorageError, match="is not an export"):
        export(run.path, tmp_path / "mine", to="torch", overwrite=True)
    export(run.path, tmp_path / "out", to="torch")
    with pytest.raises(StorageError, match="pass overwrite=True"):
        export(run.path, tmp_path / "out", to="torch")
    export(run.path, tmp_path / "out", to="onnx", overwrite=True)
    assert read_manifest(tmp_path / "out").formats == ("onnx",)
    assert not (tmp_path / "out" / "torch").exists()


def test_altered_exports_are_refused(run, tmp_path):
    out = tmp_path / "out"
    export(run.path, out, to="torch")
    with pytest.raises(UsageError, match=r"reads the format 'c'.* choose numpy, torch"):
        load_export(out, "c")
    with pytest.raises(UnknownNameError, match="unknown engine 'tvm'"):
        load_export(out, "tvm")
    weights = out / "torch" / tensors.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not the file that export\.json lists"):
        load_export(out)
    (out / "export.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_export(out)
    with pytest.raises(UsageError, match="is not an export"):
        load_export(tmp_path)


def test_the_facade_has_it():
    assert kd_offline.export is export
    assert kd_offline.load_export is load_export
