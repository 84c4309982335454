import tomllib
from importlib import metadata
from pathlib import Path

from kd_offline.runs import doctor

ROOT = Path(__file__).parents[3]


def test_what_is_absent_says_how_to_get_it(monkeypatch):
    def version(name):
        if name == "matplotlib":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    found = {extra.library: extra for extra in doctor.examine().extras}
    assert found["matplotlib"].version is None
    assert found["matplotlib"].install == "pip install 'kd-offline[report]'"
    assert found["jinja2"].install is None


def test_extras_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = project["optional-dependencies"]
    assert set(doctor.EXTRAS) == set(declared) - {"dev", "docs", "peers", "bench"}
    for extra, libraries in doctor.EXTRAS.items():
        for library in libraries:
            assert any(line.startswith(library) for line in declared[extra])


def test_bundled_experts_are_listed():
    assert "mpe-simple_spread_v3 default" in doctor.bundled_experts()
