from importlib import metadata

from kd_offline.runs import doctor


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
    declared = metadata.metadata("kd-offline").get_all("Provides-Extra") or []
    assert set(doctor.EXTRAS) == set(declared) - {"dev", "peers", "bench"}
    wanted = [line for line in metadata.requires("kd-offline") or [] if "extra ==" in line]
    for extra, libraries in doctor.EXTRAS.items():
        for library in libraries:
            assert any(line.startswith(library) and extra in line for line in wanted)


def test_bundled_experts_are_listed():
    assert "mpe-simple_spread_v3 default" in doctor.bundled_experts()
