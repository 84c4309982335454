"""The built wheel, installed in an empty environment elsewhere, records and distils."""

import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ONE_AFTER_THE_OTHER

ROOT = Path(__file__).parents[2]


def run(*command, cwd):
    # Nothing that leads Python to this repository; what libraries heed is passed on.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-q", "-o", folder, ROOT]
    run(*build, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


def test_everything_travels_inside(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    package = [name for name in names if not name.split("/")[0].endswith(".dist-info")]
    assert all(name.startswith("kd_offline/") for name in package)
    for wanted in ("py.typed", "students/mask_presets.toml", "reports/report.html.j2"):
        assert f"kd_offline/{wanted}" in names
    for recipe in (ROOT / "cli" / "recipes").rglob("*.toml"):
        assert f"kd_offline/{recipe.relative_to(ROOT)}" in names
    bundled = ROOT / "kd_offline" / "experts" / "bundled"
    for card in bundled.rglob("expert.json"):
        for file in (card, card.with_name("weights.safetensors")):
            assert str(file.relative_to(ROOT)) in names
    assert not [name for name in names if "training.safetensors" in name or "__pycache__" in name]


def test_it_records_and_distils_elsewhere(wheel, tmp_path):
    place = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=tmp_path)
    python = place / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--disable-pip-version-check",
        wheel,
        cwd=tmp_path,
    )
    (packages,) = (place / "lib").glob("python*/site-packages")
    # The libraries it depends on are borrowed, so that nothing is downloaded; this package is not,
    # because the path files of a borrowed folder are not followed.
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    code = "import kd_offline; print(kd_offline.__file__)"
    assert Path(run(python, "-c", code, cwd=tmp_path)).is_relative_to(place)
    assert "mpe/simple_spread_v3" in run(place / "bin" / "kd-offline", "envs", cwd=tmp_path)
    commands = (
        "record --episodes 40 --threads 1 -q",
        "distill dataset.zarr --recipe lh-a --epochs 1 --threads 1 -q",
        "evaluate run --episodes 10 --threads 1 -q",
    )
    assert run(python, "-c", ONE_AFTER_THE_OTHER, *commands, cwd=tmp_path) == ""
    assert (tmp_path / "run" / "evaluation.json").is_file()
    assert (tmp_path / "run" / "students.safetensors").is_file()
