"""Flipped bits and exchanged files in runs, experts and exports: refused, or the same numbers."""

import shutil

import numpy as np
import pytest

from kd_offline.distillation.rerun import rerun
from kd_offline.errors import KdOfflineError
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.evaluation.evaluation_setup import load_evaluation_setup
from kd_offline.evaluation.latency import bench_latency
from kd_offline.experts import checkpoint
from kd_offline.experts.load import bundled_folder
from kd_offline.exports.engines import load_export
from kd_offline.exports.export import export
from kd_offline.recording import partner as partners
from kd_offline.recording.partner import load_partner
from kd_offline.reports.html import render
from kd_offline.reports.markdown import markdown
from kd_offline.runs.complete import complete_run
from kd_offline.runs.folder import RunFolder
from kd_offline.schemas.run import DatasetReference
from kd_offline.students.file import read_students
from kd_offline.testing.factories import tiny_dataset
from tests.unit.evaluation.test_evaluation_setup import MASK, SPEC, expert, make_run, rows

FLIPS = 12  # bits of every file, drawn once


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two runs with all that commands put there, an export of the first, and their expert."""
    place = tmp_path_factory.mktemp("artefacts")
    teacher = expert(place / "expert")
    expert(place / "expert2", seed=5)
    masks = {"limited": np.array(rows(MASK))}
    buffer = tiny_dataset(place / "d.zarr", 20, [25] * 20, spec=SPEC, masks=masks)
    reference = DatasetReference(id=buffer.id, name="tiny", path=str(buffer.path))
    for name, motion in (("one", False), ("two", True)):
        run = make_run(place / name, teacher, motion=motion, dataset=reference)
        run.append_metrics([{"seed": 3, "epoch": 1, "split": "train", "kl": 0.5}])
        changed = {"metrics": run.metrics_record()}
        run.write_manifest(run.manifest().model_copy(update=changed))
        evaluate(run.path, episodes=4, expert=teacher, modes=["greedy"])
        bench_latency(run.path, engines=["numpy"], rounds=1, steps=2, expert=teacher)
    export(place / "one", place / "out", to="torch")
    return place


def students_of(teams):
    return [{k: v.tolist() for k, v in team.team.state_dict().items()} for team in teams]


def read_run(place):
    run, teacher = RunFolder(place / "one"), place / "expert"
    setup = load_evaluation_setup(complete_run(run.path), expert=teacher)
    partner = load_partner(run.path, SPEC, 0.5)
    said = (setup.manifest, run.evaluation(), run.latency(), run.metrics(), markdown(run.path))
    return (*said, students_of([*setup.policies.students, partner.policy]))


def read_expert(place):
    loaded = checkpoint.load(place / "expert", "expert", SPEC)
    weights = {name: value.tolist() for name, value in loaded.team.actors.state_dict().items()}
    return loaded.card, loaded.digest, weights


def read_export(place):
    team = load_export(place / "out", "numpy")
    obs = np.linspace(-1, 1, SPEC.obs_width, dtype=np.float32)
    said = [
        step(obs[None, list(a.seen)], np.ones((1, 5), bool), np.zeros((1, a.memory_width), "f4"))
        for a, step in zip(team.agents, team.steps, strict=True)
    ]
    return team.agents, [[part.tolist() for part in each] for each in said]


READ = {"one": read_run, "expert": read_expert, "out": read_export}


def outcome(read, place):
    """Return what a folder says, or None where it is refused."""
    try:
        return read(place)
    except KdOfflineError:
        return None


@pytest.mark.parametrize("folder", READ)
def test_flipped_bits_are_refused_or_change_nothing(folder, good, tmp_path):
    wanted, rng = READ[folder](good), np.random.default_rng(7)
    place = tmp_path / "copy"
    shutil.copytree(good, place)
    refused = 0
    for file in sorted(path for path in (place / folder).rglob("*") if path.is_file()):
        content = file.read_bytes()
        for bit in rng.integers(8 * len(content), size=FLIPS).tolist():
            altered = bytearray(content)
            altered[bit // 8] ^= 1 << (bit % 8)
            file.write_bytes(altered)
            found = outcome(READ[folder], place)
            assert found in (None, wanted), f"bit {bit} of {file.name}"
            refused += found is None
        file.write_bytes(content)
    assert READ[folder](place) == wanted
    assert refused >= 2 * FLIPS


def test_40_of_40_flips_in_students_are_refused_by_evaluation_and_partner(good, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(good, place)
    file = place / "one" / "students.safetensors"
    content = file.read_bytes()
    for bit in np.random.default_rng(1).integers(8 * len(content), size=40).tolist():
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(altered)
        for read in (
            lambda: load_evaluation_setup(complete_run(place / "one"), expert=place / "expert"),
            lambda: load_partner(place / "one", SPEC, 0.5),
            lambda: load_partner(file, SPEC, 0.5),
        ):
            with pytest.raises(KdOfflineError):
                read()


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        ("two/students.safetensors", "one/students.safetensors"),
        ("two/run.json", "one/run.json"),
        ("two/evaluation.json", "one/evaluation.json"),
        ("two/latency.json", "one/latency.json"),
        ("expert2/weights.safetensors", "expert/weights.safetensors"),
        ("expert2/expert.json", "expert/expert.json"),
        ("one/students.safetensors", "out/torch/students.safetensors"),
    ],
)
def test_exchanged_files_are_refused(theirs, mine, good, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(good, place)
    shutil.copyfile(place / theirs, place / mine)
    with pytest.raises(KdOfflineError):
        READ[mine.split("/")[0]](place)


@pytest.mark.parametrize("use", [lambda path: render(RunFolder(path)), markdown, rerun])
def test_nothing_is_said_of_other_students(use, good, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(good, place)
    shutil.copyfile(place / "two" / "students.safetensors", place / "one" / "students.safetensors")
    with pytest.raises(KdOfflineError, match=r"not the ones that its run\.json describes"):
        use(place / "one")


def test_a_flipped_bit_in_what_ships_with_the_package_is_refused(tmp_path, monkeypatch):
    ours = bundled_folder(SPEC.id, "mlp")
    for name in ("expert.json", "weights.safetensors"):
        folder = tmp_path / name
        shutil.copytree(ours, folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content)
        with pytest.raises(KdOfflineError):
            checkpoint.load(folder, "bundled:mlp", SPEC)

    def flipped(path, *, of_file):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        (tmp_path / "students").write_bytes(content)
        return read_students(tmp_path / "students", of_file=of_file)

    monkeypatch.setattr(partners, "read_students", flipped)
    with pytest.raises(KdOfflineError, match="does not have the digest that is stated"):
        load_partner("bundled", SPEC, 0.5)
