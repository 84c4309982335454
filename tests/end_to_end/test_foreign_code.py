"""A dataset and everything made from it name a stranger's code: no command runs it unasked."""

import shutil
import sys
from pathlib import Path

import pytest

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.runs.folder import RunFolder
from tests.end_to_end.conftest import kd, kd_json, refused
from tests.unit.recording.tampering import rewritten

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[2]
TINY = ROOT / "datasets" / "tiny-spread" / "dataset.zarr"
MODULE = "planted_by_a_stranger"
ENVIRONMENT, EXPERT = f"pettingzoo/{MODULE}:parallel_env", f"python:{MODULE}:make"
# Importing it leaves a mark, and so does calling what is in it.
PLANTED = """
from pathlib import Path
mark = Path(__file__).with_name("it ran")
mark.write_text("imported")
def parallel_env(layout="", **settings):
    mark.write_text(f"called with {layout}")
    return 0
def make(spec):
    mark.write_text("asked")
"""


class Place:
    """The stranger's module, importable, and a whole, sealed dataset that names it."""

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, root / "run"
        (root / f"{MODULE}.py").write_text(PLANTED)
        tiny = ExpertBuffer.open(TINY)
        kwargs = {"layout": "/etc/passwd", "episode_limit": 25}
        spec = tiny.spec.model_copy(update={"id": ENVIRONMENT, "kwargs": kwargs})
        record = tiny.manifest.experts[0].model_copy(update={"reference": EXPERT})
        hostile = {"environment": spec, "experts": (record,)}
        self.dataset = rewritten(tiny, root / "d.zarr", manifest=hostile).path

    @property
    def mark(self) -> str:
        file = self.root / "it ran"
        return file.read_text() if file.exists() else ""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("foreign"))
    sys.path.insert(0, str(place.root))
    done = kd(
        *("distill", place.dataset, "-o", place.run, "--mask", "limited", "--epochs", 1),
        *("--hidden", 8, "--threads", 1, "--method", "kl"),
    )
    options = f"--environment {ENVIRONMENT} --expert {EXPERT}"
    assert f"next: kd-offline evaluate {place.run} {options}\n" in done.stderr
    whose = f"{ENVIRONMENT!r} with layout='/etc/passwd' and the expert {EXPERT!r}"
    assert f"{whose} came with the dataset, and this command runs the code of" in done.stderr
    yield place
    sys.path.remove(str(place.root))
    sys.modules.pop(MODULE, None)


@pytest.fixture(autouse=True)
def nothing_ran(place):
    yield
    (place.root / "it ran").unlink(missing_ok=True)
    sys.modules.pop(MODULE, None)


def test_what_only_reads_the_dataset_works_and_runs_nothing(place):
    assert kd_json("verify", place.dataset)["ok"]
    kd("inspect", place.dataset)
    kd("rerun", place.run, "-o", place.root / "again")
    kd("report", place.run)
    kd("profile", place.run, "-o", place.root / "team.json")
    kd("export", place.run, "--to", "torch", "--episodes", 2, "--overwrite")
    found = kd_json("bench", "latency", place.run, "--engines", "numpy", "--rounds", 1)
    missing = found["unavailable"][0]
    assert missing["who"] == "expert"
    assert f"asks for the expert {EXPERT!r}, which a file may not load" in missing["reason"]
    assert place.mark == ""


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "RUN"),
        ("evaluate", "RUN", "--expert", "bundled"),
        ("profile", "RUN", "--episodes", 2),
        ("bench", "quantisation", "RUN", "--episodes", 2),
        ("verify", "DATASET", "--replay", 1),
        ("sweep", "DATASET", "-o", "SWEEP", "--judge", "retention"),
    ],
)
def test_what_plays_asks_for_the_environment_by_name(place, command):
    places = {"RUN": place.run, "DATASET": place.dataset, "SWEEP": place.root / "s"}
    said = refused(*(places.get(word, word) for word in command), code=2)
    assert f"asks for the environment '{ENVIRONMENT}' with layout='/etc/passwd'" in said
    assert f"pass --environment {ENVIRONMENT}" in said
    assert place.mark == ""


def test_a_sweep_that_may_choose_its_judge_plays_nothing(place):
    made = kd_json(
        *("sweep", place.dataset, "-o", place.root / "sweep", "--trials", 1, "--epochs", 1),
        *("--arch", "mlp", "--widths", "8", "--precision", "fp32", "--episodes", 2),
        *("--mask", "limited", "--method", "kl"),
    )
    assert made["plan"]["judge"] == "agreement"
    assert place.mark == ""


def test_a_run_folder_of_the_sweep_that_was_planted_chooses_nothing_either(place):
    """Naming one environment does not let another pass that a planted run names."""
    said = refused("evaluate", place.run, "--environment", "mpe/simple_spread_v3", code=2)
    assert f"names the environment '{ENVIRONMENT}', not 'mpe/simple_spread_v3'" in said
    assert place.mark == ""


def test_what_the_user_names_runs_and_has_to_make_a_parallel_env(place):
    said = refused("evaluate", place.run, "--environment", ENVIRONMENT, code=2)
    assert (
        f"environment '{ENVIRONMENT}' is not a ParallelEnv or AECEnv of PettingZoo but int" in said
    )
    assert place.mark == "called with /etc/passwd"


def edited(run: Path, copy: Path, **changes: object) -> Path:
    """Copy a run and change what its run.json states."""
    shutil.copytree(run, copy)
    folder = RunFolder(copy)
    folder.write_manifest(folder.manifest().model_copy(update=changes))
    return copy


def test_a_run_names_no_expert_by_its_code_or_folder(place, tmp_path):
    ordinary = tmp_path / "ordinary"
    kd("distill", TINY, "-o", ordinary, "--epochs", 1, "--hidden", 8, "--method", "kl")
    for k, name in enumerate((EXPERT, "onnx:x.onnx", "bundled/../../x", str(tmp_path))):
        run = edited(ordinary, tmp_path / str(k), expert_reference=name)
        said = refused("evaluate", run, code=2)
        assert "which a file may not load by itself: if you trust it, pass --expert" in said
    assert place.mark == ""


def test_a_run_does_not_choose_which_server_is_asked(place, tmp_path):
    before = RunFolder(place.run).manifest().dataset
    elsewhere = before.model_copy(update={"path": "http://127.0.0.1:9/d.zarr"})
    run = edited(place.run, tmp_path / "run", dataset=elsewhere)
    for command in (("rerun", run), ("export", run, "--to", "torch", "-o", tmp_path / "x")):
        said = refused(*command, code=2)
        assert "may not choose which server is asked: if you know that address, pass" in said
        assert "--dataset http://127.0.0.1:9/d.zarr" in said
    kd("report", run)
    kd("profile", run)


def test_a_run_does_not_choose_which_file_is_read_as_a_hardware_profile(place, tmp_path):
    recipe = RunFolder(place.run).manifest().recipe
    budget = {"budget": {"profile": "/dev/zero", "max_macs": 10**9}}
    run = edited(place.run, tmp_path / "run", recipe=recipe | budget)
    said = refused("rerun", run, code=2)
    assert "asks for the hardware profile '/dev/zero', and a file may not choose which" in said
    assert "pass --device /dev/zero" in said
    assert "--device" in kd("rerun", "--help").stdout
