"""Imports point one way, and what must be light stays light."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

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
    | {("code_guard", "registry")}
    | {("registry", name) for name in ("errors", "schemas", "user_code")}
    | {("tracking", name) for name in ("errors", "files", "registry", "untrusted_text")}
    | {("tracking", "user_code")}
    | {("execution", name) for name in ("errors", "file_locks", "files", "registry", "user_code")},
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
LIGHT += ["kd_offline.reports.dataset"]
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


@cache
def imports_of(path):
    """Return the full names of everything that a module imports, wherever the statement stands."""
    names: list[str] = []
    for node in statements(ast.parse(path.read_text("utf-8")).body):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def statements(body):
    """Yield all statements of a block and of the blocks in it; no expression holds an import."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from statements(getattr(node, inner, ()))


def imported_parts(path):
    for name in imports_of(path):
        head, *rest = name.split(".")
        if head == "kd_offline" and rest and rest[0] in TIERS:
            yield rest[0]


def test_every_module_has_a_tier():
    assert {part(path) for path in modules()} == set(TIERS)


@pytest.mark.parametrize("name", sorted(TIERS))
def test_imports_point_one_way(name):
    for path in modules():
        if part(path) != name:
            continue
        for other in set(imported_parts(path)) - {name}:
            what = f"{path.relative_to(ROOT)} imports {other}"
            assert (name, other) not in FORBIDDEN, what
            if TIERS[name] == TIERS[other]:
                assert (name, other) in SAME_TIER.get(TIERS[name], set()), what
            else:
                assert TIERS[name] > TIERS[other], what


def dataset_modules():
    return sorted(path for path in (ROOT / "datasets").rglob("*.py") if path.parent.parent != ROOT)


def test_every_package_of_datasets_has_a_floor():
    folders = {path.relative_to(ROOT / "datasets").parts[0] for path in dataset_modules()}
    assert folders == {name for floor in DATASET_FLOORS for name in floor}
    assert [path.name for path in (ROOT / "datasets").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("package", [name for floor in DATASET_FLOORS for name in floor])
def test_imports_inside_datasets_point_down(package):
    floor_of = {name: k for k, floor in enumerate(DATASET_FLOORS) for name in floor}
    for path in (ROOT / "datasets" / package).rglob("*.py"):
        for name in imports_of(path):
            if name.startswith("kd_offline.datasets."):
                other = name.split(".")[2]
                below = other == package or floor_of[other] < floor_of[package]
                assert below, f"{path.relative_to(ROOT)} imports {other}"


_LISTING = "import json, sys; print('loaded', json.dumps(sorted(sys.modules)), flush=True)"


def loaded_after(*steps):
    """Return the names of all modules that are loaded after each step, in one fresh process."""
    code = "\n".join(f"{step}\n{_LISTING}" for step in steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("loaded ")]
    return [set(json.loads(row.removeprefix("loaded "))) for row in rows]


_HELP = """
from typer.testing import CliRunner
from kd_offline.cli.app import app
done = CliRunner().invoke(app, ['distill', '--help'])
assert done.exit_code == 0 and 'dataset' in done.output
"""
_READ = "from kd_offline import ExpertBuffer, inspect, verify"
_LIGHT = f"""
import importlib, sys
for module in {LIGHT}:
    importlib.import_module(module)
    if "torch" in sys.modules:
        sys.exit(module + " imports torch")
"""
_PLAY = """
import kd_offline.recording.record, kd_offline.evaluation.evaluate
from kd_offline import environments
from kd_offline.experts.load import load
load('bundled', environments.load('mpe/simple_spread_v3').spec)
"""


def test_help_and_reading_need_nothing_heavy():
    """No module of ``LIGHT`` needs PyTorch; the first one that does is named."""
    shown, opened, _ = loaded_after(_HELP, _READ, _LIGHT)
    assert not shown & {"torch", "zarr", "numpy", "tqdm", "matplotlib", "jinja2"}
    assert not opened & {"torch", "matplotlib", "jinja2", "mpe2", "pettingzoo"}


def test_distillation_imports_no_environment_and_recording_no_optional_library():
    """Nor SymPy, with which PyTorch computes some shapes: it takes half a second to import."""
    distilling, playing = loaded_after(
        "import kd_offline.distillation.distill, kd_offline.distillation.rerun", _PLAY
    )
    assert "torch" in distilling
    heavy = ("kd_offline.environments", "kd_offline.experts", "mpe2", "pettingzoo", "jax")
    assert not [name for name in distilling if name.startswith(heavy)]
    assert not playing & {"mpe2", "pettingzoo", "matplotlib", "jinja2", "jax", "sympy"}


def test_root_folders_hold_no_python():
    repository = ROOT.parent
    for name in ("cli", "schemas", "datasets"):
        assert not list((repository / name).rglob("*.py"))
