"""Teachers that see more, distilled from files through the command line, and what is refused."""

import json

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.metadata.summary import format_bytes
from kd_offline.experts.load import load
from kd_offline.recording.record import check_space, step_bytes
from tests.end_to_end.conftest import kd, refused

PREY = "grid/predator_prey"
BOARD = [f"--env={x}" for x in ("size=4", "n_predators=2", "n_prey=1", "view=3", "episode_limit=8")]
SHORT = ["--frames", 256, "--threads", 1, "--hidden", 8, "--set", "episodes_per_batch=16"]
BLOCK = ["--set", "architecture.block_width=6", "--set", "architecture.block_hidden=4"]
QUICK = ["--epochs", 2, "--batch", 8, "--threads", 1, "--hidden", "8,6", "--mask", "limited"]


def recorded(folder, *view):
    """Train a teacher for a few steps and record it."""
    trained = ("train", PREY, *BOARD, "-o", folder / "teacher", "--algorithm", "vdn", *SHORT)
    kd(*trained, *view, "--score", 0, "--set", "q_learning.updates_per_batch=2")
    kd(
        "record",
        PREY,
        *BOARD,
        "--expert",
        folder / "teacher",
        "-o",
        folder / "d.zarr",
        "--episodes",
        24,
    )
    return folder / "d.zarr"


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A recording of a teacher that reads the state through DDN's block."""
    return recorded(tmp_path_factory.mktemp("fused"), "--view", "personalised", *BLOCK)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A recording of a teacher that sees what its students see."""
    return recorded(tmp_path_factory.mktemp("local"))


@pytest.mark.parametrize("student", [[], ["--arch", "gru", "--depth", 1], ["--qat"]])
def test_ddn_is_distilled_from_a_file_into_students_of_any_width(fused, tmp_path, student):
    kd("distill", fused, "-o", tmp_path, "--method", "ddn-external", *QUICK, *student)
    assert json.loads((tmp_path / "run.json").read_text("utf-8"))["status"] == "complete"
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert all(term in lines[0] for term in ("privileged_embedding", "kl", "feature"))
    expert = ("--expert", fused.parent / "teacher")
    kd("evaluate", tmp_path, *expert, "--episodes", 8, "--threads", 1)


def test_ptde_is_distilled_from_a_file_and_exported(tmp_path):
    block = ("--set", "architecture.block=hypernetwork", *BLOCK)
    data = recorded(tmp_path, "--view", "personalised", *block)
    assert "steps/embedding_z" in ExpertBuffer.open(data).names
    kd("distill", data, "-o", tmp_path / "run", "--method", "ptde", *QUICK)
    exported_everywhere(tmp_path / "run")


@pytest.mark.parametrize("depth", [0, 2])
def test_the_fusion_block_is_exported(fused, tmp_path, depth):
    run = ("-o", tmp_path / "run", "--method", "ddn-external", *QUICK, "--depth", depth)
    kd("distill", fused, *run)
    exported_everywhere(tmp_path / "run")


def exported_everywhere(run):
    """Export a run in all formats, each compared with the students on recorded episodes."""
    kd("export", run, "--to", "all", "-o", run / "out")
    exported = json.loads((run / "out" / "export.json").read_text("utf-8"))
    assert exported["formats"] == ["onnx", "c", "torch"]
    assert exported["gate"]["engines"].keys() == {"numpy", "torch", "onnx", "c"}
    assert len(exported["agents"]) == 2


@pytest.mark.parametrize("method", ["ctds", "igm-bc"])
def test_full_sight_is_distilled_by_q_values_or_actions(tmp_path, method):
    data = recorded(tmp_path, "--view", "full")
    kd(
        "distill",
        data,
        "-o",
        tmp_path / "run",
        "--method",
        method,
        *QUICK,
        "--seeds",
        2,
        "--batched",
    )


@pytest.mark.parametrize(("method", "lacks"), [("ddn-external", "s_hat"), ("ptde", "z")])
def test_a_teacher_that_sees_no_more_is_refused_with_the_command_that_records_one(
    local, tmp_path, method, lacks
):
    words = refused("distill", local, "-o", tmp_path / "run", "--method", method, code=2)
    assert f"steps/embedding_{lacks}" in words
    assert "kd-offline train --view personalised" in words
    assert ("architecture.block=hypernetwork" in words) is (method == "ptde")
    assert not (tmp_path / "run").exists()


def test_taps_count_in_the_size_that_a_recording_may_take(fused):
    buffer = ExpertBuffer.open(fused)
    expert = load(str(fused.parent / "teacher"), buffer.spec)
    taps = [name for name in buffer.names if "embedding_" in name]
    assert len(taps) == 2
    width = sum(buffer.array(name).spec.shape[-1] for name in ("steps/embedding", *taps))
    most = 10**5 * (buffer.spec.episode_limit + 1) * step_bytes(buffer.spec, width, 4)
    said = check_space(fused, expert, buffer.spec, 10**5, "float32", resume=False)
    assert f"{format_bytes(most)} at most" in said


def test_a_tap_of_another_width_is_met_by_a_linear_map(fused, tmp_path):
    width = ExpertBuffer.open(fused).read("steps/embedding_s_hat", 0, 1).shape[-1]
    assert width == 6
    more = ("--set", "student.block_width=3", "--set", "student.block_hidden=2")
    kd("distill", fused, "-o", tmp_path, "--method", "ddn-external", *QUICK, *more)
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert np.isfinite(run["results"][0]["held_out"]["kl"])
