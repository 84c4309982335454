"""Bad input: one sentence that says what, got, allowed and what to do next; the right exit code."""

import json
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DISTILL, RECORD, SPREAD, kd, kd_json, refused
from tests.sealing import resealed

ADVERSARY = "mpe/simple_adversary_v3"
BRIEF = ["--frames", "800", "--set", "episodes_per_batch=32"]


def distill(made, *arguments):
    return ["distill", made.dataset, *DISTILL, *arguments]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["record", "mpe/simple_spred_v3"], "did you mean 'mpe/simple_spread_v3'"),
        (["record", SPREAD, "--env", "agents=4"], "did you mean 'n_agents'"),
        (["record", SPREAD, "--env", "n_agents=0"], "n_agents"),
        (["record", SPREAD, "--noise", "0:0.5"], "shares that add up to 1"),
        (["record", SPREAD, "--episodes", "0"], "episodes is 0, which should be greater"),
        (
            ["record", SPREAD, "--embedding", "float8"],
            "'float8', which should be",
        ),
        (["record", SPREAD, "--threads", "0"], "threads is 0, which should be greater"),
        (["record", SPREAD, "--seed", "-1"], "seed is -1, which should be greater"),
        (["record", SPREAD, "--mask", "limted"], "did you mean 'limited'"),
        (["record", SPREAD, "--expert", "bundled:larg"], "did you mean 'large'"),
        (["train", "mpe/simple_spred_v3"], "did you mean"),
        (["train"], "no environment given"),
        (["train", SPREAD, "--algorithm", "dqn"], "allowed are mappo, ippo, vdn, qmix"),
        (["train", SPREAD, "--widths", "32,16"], "3 agents"),
        (["train", SPREAD, "--widths", "wide"], "not a list of whole numbers"),
        (["train", SPREAD, "--side", "gods"], "unknown side 'gods'"),
        (["train", SPREAD, "--mask", "random-k"], "train under a fixed one"),
        (["train", SPREAD, "--frames", "-1"], "frames"),
        (["envs", "pettingzoo/no_such_module:env"], "no_such_module"),
        (["schema", "rnu"], "did you mean 'run'"),
        (["evaluate", "no-such-run"], "holds no run.json"),
        (["report", "no-such-run"], "holds no run.json"),
        (["rerun", "no-such-run"], "holds no run.json"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_wrong_names_and_values(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(*arguments, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "kdmarl"], "did you mean 'kd-marl'"),
        (["--mask", "limted"], "did you mean 'limited'"),
        (["--hidden", "32,16"], "3 agents"),
        (["--hidden", "0"], "give one positive width"),
        (["--hidden", "wide"], "whole numbers"),
        (["--arch", "lstm"], "allowed are gru, mlp"),
        (["--preset", "hl"], "unknown preset 'hl'"),
        (["--seeds", "0"], "give 1 or more"),
        (["--set", "switches.ratoi=joint"], "did you mean 'ratio'"),
        (["--set", "terms.policy.ratoi=joint"], "did you mean 'ratio'"),
        (["--set", "terms.polices.ratio=joint"], "unknown loss term 'polices'"),
        (["--set", "weights.kll=1"], "did you mean 'kl'"),
        (["--set", "weights.kl=-1"], "weights.kl is -1"),
        (["--set", "terms.policy.ratio"], "NAME=VALUE"),
        (["--set", "switches.ratio=both"], "'per_agent' or 'joint'"),
        (["--epochs", "0"], "greater than 0"),
        (["--recipe", "absent.toml"], "cannot be read"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_wrong_distillation(made, arguments, words, tmp_path):
    assert words in refused(*distill(made, "-o", tmp_path / "run", *arguments), code=2)
    assert not (tmp_path / "run").exists()


def test_a_mask_of_another_environment(tmp_path):
    mask = tmp_path / "mine.toml"
    mask.write_text(f'environment = "{ADVERSARY}"\n[agents]\nadversary_0 = []\n')
    words = refused("record", SPREAD, "--mask", mask, "-o", tmp_path / "d.zarr", code=2)
    assert ADVERSARY in words
    assert SPREAD in words


def test_an_expert_that_does_not_fit(made, tmp_path):
    words = refused("record", ADVERSARY, "--expert", made.expert, "-o", tmp_path / "d", code=2)
    assert "does not fit" in words
    assert not (tmp_path / "d").exists()
    refused(
        *("record", SPREAD, "--env", "n_agents=4", "--expert", made.expert),
        *("-o", tmp_path / "d"),
        code=2,
    )


def test_no_expert_there(tmp_path):
    words = refused("record", SPREAD, "--expert", tmp_path, "-o", tmp_path / "d", code=2)
    assert "holds no expert.json" in words
    assert "kd-offline train" in words


def test_an_expert_that_was_not_recorded(made, tmp_path):
    other = tmp_path / "other"
    kd("train", SPREAD, *BRIEF, "--seed", 5, "--score", 0, "--threads", 1, "-o", other)
    words = refused("evaluate", made.run, "--expert", other, "--episodes", 10, code=1)
    assert "pass --expert with the recorded one" in words


def test_damaged_experts_and_students(made, tmp_path):
    expert, run = tmp_path / "expert", tmp_path / "run"
    shutil.copytree(made.expert, expert)
    (expert / "weights.safetensors").write_bytes(b"not tensors")
    refused(*RECORD, "--expert", expert, "-o", tmp_path / "d", code=1)
    shutil.copytree(made.run, run)
    (run / "students.safetensors").write_bytes(b"not tensors")
    words = refused("evaluate", run, "--expert", made.expert, "--episodes", 10, code=1)
    assert "distil them again" in words
    (run / "run.json").write_text("{}")
    assert "is damaged" in refused("report", run, code=1)


@pytest.mark.parametrize("command", ["inspect", "verify", "distill"])
class TestDatasetsThatAreNone:
    def test_nothing_there(self, command, tmp_path):
        refused(command, tmp_path / "absent.zarr", code=2)

    def test_an_empty_folder(self, command, tmp_path):
        refused(command, tmp_path, code=2)

    def test_a_file(self, command, tmp_path):
        (tmp_path / "file").write_text("hello")
        refused(command, tmp_path / "file", code=2)

    def test_an_unfinished_recording(self, command, made, tmp_path):
        unfinished = tmp_path / "unfinished.zarr"
        shutil.copytree(made.dataset, unfinished)
        (unfinished / "manifest.json").rename(unfinished / "recording.json")
        words = refused(command, unfinished, code=1)
        assert "not finished" in words or "unfinished" in words


def test_nothing_is_overwritten_by_accident(made, tmp_path):
    before = kd_json("inspect", made.dataset)["id"]
    words = refused(*RECORD, "--expert", made.expert, "-o", made.dataset, code=1)
    assert "--overwrite" in words or "overwrite" in words
    refused(*distill(made, "-o", made.run), code=1)
    refused("train", SPREAD, "-o", made.expert, "--frames", 6400, code=1)
    assert kd_json("inspect", made.dataset)["id"] == before
    # What is not ours is never removed, not even when asked.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    refused(*RECORD, "--expert", made.expert, "-o", tmp_path / "mine", "--overwrite", code=1)
    refused(*distill(made, "-o", tmp_path / "mine", "--overwrite"), code=1)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_continuing_with_other_settings(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    words = refused(*distill(made, "-o", run, "--resume"), code=1)
    assert "begun with another recipe" in words
    words = refused("train", SPREAD, "-o", made.expert, "--frames", 9, "--resume", code=1)
    assert "begun with another recipe" in words


def test_resume_and_overwrite_exclude_each_other(made, tmp_path):
    both = ["--resume", "--overwrite"]
    refused(*RECORD, "--expert", made.expert, "-o", tmp_path / "d", *both, code=2)
    refused(*distill(made, "-o", tmp_path / "r", *both), code=2)


def test_rerun_needs_the_same_dataset(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    other = tmp_path / "other.zarr"
    kd(*RECORD, "--seed", 9, "--expert", made.expert, "-o", other)
    assert "--dataset" in refused("rerun", run, "--dataset", other, code=2)
    stated = json.loads((run / "run.json").read_text())["dataset"]
    resealed(run / "run.json", dataset=stated | {"path": str(tmp_path / "gone.zarr")})
    assert "--dataset" in refused("rerun", run, code=2)
    assert kd_json("rerun", run, "--dataset", made.dataset)["identical"]


def test_a_critic_that_explains_nothing(made, tmp_path):
    words = refused(
        *("distill", made.dataset, "-o", tmp_path / "run", "--threads", 1, "--epochs", 1), code=2
    )
    assert "set weights.policy to 0" in words
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [["merge"], ["diff"], ["no-such-command"], ["record", SPREAD, "--no-such-option"]],
    ids=" ".join,
)
def test_usage_errors_of_the_parser(arguments):
    done = kd(*arguments, code=2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@contextmanager
def limited(size):
    """Let no file of this process grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def commands(made, place):
    return {
        "record": [*RECORD, "--expert", made.expert, "-o", place / "d.zarr", "-q"],
        "distill": distill(made, "-o", place / "run", "-q"),
        "train": ["train", SPREAD, *BRIEF, "--threads", 1, "-o", place / "e", "-q"],
    }


@pytest.mark.parametrize("command", ["record", "distill", "train"])
def test_a_disk_that_takes_no_more(made, tmp_path, command):
    with limited(3000):
        words = refused(*commands(made, tmp_path)[command], code=1)
    assert "unexpected" not in words


def test_a_recording_goes_on_when_there_is_room_again(made, tmp_path):
    arguments = commands(made, tmp_path)["record"]
    with limited(3000):
        refused(*arguments, code=1)
    kd(*arguments, "--resume")
    assert kd_json("inspect", tmp_path / "d.zarr")["id"] == kd_json("inspect", made.dataset)["id"]


@contextmanager
def mounted(place: Path, options: str):
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("command", ["record", "distill", "train"])
def test_a_full_disk(made, tmp_path, command):
    with mounted(tmp_path / "small", "size=16k"):
        words = refused(*commands(made, tmp_path / "small")[command], code=1)
    assert ("free space" if command == "record" else "No space left on device") in words


@pytest.mark.parametrize("command", ["record", "distill", "train"])
def test_a_read_only_folder(made, tmp_path, command):
    with mounted(tmp_path / "locked", "ro"):
        words = refused(*commands(made, tmp_path / "locked")[command], code=1)
    assert "Read-only file system" in words
