import pytest

from kd_offline.datasets import annotate, filter, merge, verify
from kd_offline.datasets.convert.convert import convert
from kd_offline.errors import UsageError


def test_only_what_is_said_changes(parent, tmp_path):
    said = {"licence": "CC-BY-4.0", "citation": "Ours (2026)", "description": ""}
    manifest = annotate(parent.path, tmp_path / "a.zarr", **said)
    assert verify(tmp_path / "a.zarr").ok
    assert manifest.id == parent.id
    assert (manifest.licence, manifest.citation) == ("CC-BY-4.0", "Ours (2026)")
    assert manifest.version == "1.0.1"
    assert manifest.files == parent.manifest.files
    (step,) = manifest.lineage
    assert step.arguments == {"licence": "CC-BY-4.0", "citation": "Ours (2026)"}
    assert annotate(parent.path, tmp_path / "b.zarr", version="2.0.0").version == "2.0.0"


@pytest.mark.parametrize(
    ("options", "words"),
    [({}, "nothing is to be said"), ({"version": "1"}, "1.2.0"), ({"name": ""}, "one letter")],
)
def test_refusals(parent, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        annotate(parent.path, tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("name", ["a\nid: sha256:0", "a\x1b[2J", " ", "a\rb"])
def test_a_name_is_one_line_whatever_makes_the_dataset(name, parent, tmp_path):
    for make in (
        lambda: annotate(parent.path, tmp_path / "out.zarr", name=name),
        lambda: filter(parent.path, tmp_path / "out.zarr", "length > 0", name=name),
        lambda: merge([parent.path, parent.path], tmp_path / "out.zarr", name=name),
        lambda: convert(parent.path, tmp_path / "out.h5", name=name),
    ):
        with pytest.raises(UsageError, match="must be one line of printable text"):
            make()
    assert not (tmp_path / "out.zarr").exists()
