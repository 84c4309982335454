"""Imports point one way, and what must be light stays light."""

import ast
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import kd_offline

ROOT = Path(kd_offline.__file__).parent

TIERS = {
    **dict.fromkeys(
        ("errors", "types", "seeding", "schemas", "recipes", "files", "generated_files"), 0
    ),
    **dict.fromkeys(("sealed_json", "strict_json", "untrusted_text", "user_code"), 0),
    **dict.fromkeys(("code_guard", "registry", "tracking", "file_locks", "execution"), 0),
    "commands": 0,
    **dict.fromkeys(("networks", "advantage", "distributions", "hardware"), 1),
    **dict.fromkeys(("environments", "experts", "students", "datasets", "rollout"), 2),
    **dict.fromkeys(("recording", "distillation", "evaluation", "reports", "runs", "exports"), 3),
    "deployment": 3,
    "robustness": 3,
    "testing": 4,
    "sweeps": 4,
    "online": 4,
    "cli": 5,
    "__main__": 6,
}
SAME_TIER = {
    0: {("schemas", "errors"), ("schemas", "types"), ("seeding", "types"), ("recipes", "errors")}
    | {("recipes", "schemas"), ("files", "errors"), ("generated_files", "files")}
    | {("file_locks", "errors"), ("file_locks", "files")}
    | {("schemas", "generated_files"), ("sealed_json", "strict_json")}
    | {("sealed_json", name) for name in ("errors", "files", "schemas")}
    | {("user_code", "errors"), ("user_code", "untrusted_text"), ("code_guard", "errors")}
    | {("registry", name) for name in ("errors", "schemas", "user_code")}
    | {("tracking", name) for name in ("errors", "files", "registry", "untrusted_text")}
    | {("tracking", "user_code")}
    | {("execution", name) for name in ("errors", "files", "registry", "user_code")},
    1: {("hardware", "networks")},
    2: {
        ("experts", "environments"),
        ("experts", "students"),
        ("experts", "rollout"),
        ("rollout", "environments"),
    },
    3: {(name, "runs") for name in ("recording", "distillation", "evaluation", "reports")}
    | {("exports", "runs"), ("evaluation", "exports")}
    | {("robustness", name) for name in ("evaluation", "exports", "runs")}
    | {("deployment", name) for name in ("distillation", "evaluation", "exports", "runs")},
}
DATASET_FLOORS = (
    ("format",),
    ("storage",),
    ("reading", "writing"),
    ("loading", "validation"),
    ("analysis", "metadata"),
    ("edit",),
    ("convert",),
    ("sharing",),
)
"""Packages of ``datasets/``, the lowest first; each imports from lower floors alone."""
FORBIDDEN = {("distillation", "environments"), ("distillation", "experts"), ("cli", "testing")}
LIGHT = ["kd_offline", "kd_offline.schemas.publish", "kd_offline.datasets.reading.reader"]
LIGHT += [
    "kd_offline.datasets.validation.integrity",
    "kd_offline.datasets.metadata.summary",
    "kd_offline.cli.app",
]
LIGHT += ["kd_offline.datasets.analysis.playback", "kd_offline.reports.dataset"]
LIGHT += ["kd_offline.datasets.edit.merge", "kd_offline.datasets.metadata.cards"]
LIGHT += ["kd_offline.distillation.recipe", "kd_offline.experts.recipe"]
LIGHT += ["kd_offline.deployment.check"]
LIGHT += ["kd_offline.datasets.loading.loader", "kd_offline.datasets.convert.convert"]
LIGHT += ["kd_offline.datasets.edit.filter", "kd_offline.datasets.edit.comparison"]
LIGHT += ["kd_offline.datasets.metadata.croissant", "kd_offline.datasets.sharing.share"]
LIGHT += ["kd_offline.hardware.model", "kd_offline.hardware.profiles"]


def modules():
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part(path):
    """Return the top-level package or module that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports_of(path):
    """Yield the full names of everything that a module imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from names


def imported_parts(path):
    for name in imports_of(path):
        head, *rest = name.split(".")
        if head == "kd_offline" and rest and rest[0] in TIERS:
            yield rest[0]


def test_every_module_has_a_tier():
    assert {part(path) for path in modules()} == set(TIERS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    mine = part(path)
    for other in imported_parts(path):
        if other == mine:
            continue
        assert (mine, other) not in FORBIDDEN
        if TIERS[mine] == TIERS[other]:
            assert (mine, other) in SAME_TIER.get(TIERS[mine], set()), f"{mine} imports {other}"
        else:
            assert TIERS[mine] > TIERS[other], f"{mine} imports {other}"


def dataset_modules():
    return sorted(path for path in (ROOT / "datasets").rglob("*.py") if path.parent.parent != ROOT)


def test_every_package_of_datasets_has_a_floor():
    folders = {path.relative_to(ROOT / "datasets").parts[0] for path in dataset_modules()}
    assert folders == {name for floor in DATASET_FLOORS for name in floor}
    assert [path.name for path in (ROOT / "datasets").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("path", dataset_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_inside_datasets_point_down(path):
    floor_of = {name: k for k, floor in enumerate(DATASET_FLOORS) for name in floor}
    mine = path.relative_to(ROOT / "datasets").parts[0]
    for name in imports_of(path):
        if name.startswith("kd_offline.datasets."):
            other = name.split(".")[2]
            assert other == mine or floor_of[other] < floor_of[mine], f"{mine} imports {other}"


def loaded(code):
    """Return the names of all modules that are loaded after ``code`` in a fresh interpreter."""
    listing = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_needs_no_torch():
    """The first module in one process after which PyTorch is loaded is the one that is named."""
    code = f"""
    import importlib, sys
    for module in {LIGHT}:
        importlib.import_module(module)
        if "torch" in sys.modules:
            sys.exit(module)
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_needs_nothing_heavy():
    found = loaded(
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from kd_offline.cli.app import app\n"
        "done = CliRunner().invoke(app, ['distill', '--help'])\n"
        "assert done.exit_code == 0 and 'dataset' in done.output"
    )
    assert not found & {"torch", "zarr", "numpy", "tqdm", "matplotlib", "jinja2"}


def test_reading_a_dataset_needs_no_torch_and_no_optional_library():
    found = loaded("from kd_offline import ExpertBuffer, inspect, verify")
    assert not found & {"torch", "matplotlib", "jinja2", "mpe2", "pettingzoo"}


def test_distillation_imports_no_environment_and_no_expert():
    found = loaded("import kd_offline.distillation.distill, kd_offline.distillation.rerun")
    assert "torch" in found
    heavy = ("kd_offline.environments", "kd_offline.experts", "mpe2", "pettingzoo", "jax")
    assert not [name for name in found if name.startswith(heavy)]


def test_recording_and_evaluation_import_no_optional_library():
    """Nor SymPy, with which PyTorch computes some shapes: it takes half a second to import."""
    found = loaded(
        "import kd_offline.recording.record, kd_offline.evaluation.evaluate\n"
        "from kd_offline import environments\n"
        "from kd_offline.experts.load import load\n"
        "load('bundled', environments.load('mpe/simple_spread_v3').spec)"
    )
    assert not found & {"mpe2", "pettingzoo", "matplotlib", "jinja2", "jax", "sympy"}


def test_root_folders_hold_no_python():
    repository = ROOT.parent
    for name in ("cli", "schemas", "datasets"):
        assert not list((repository / name).rglob("*.py"))
