"""The commands that make a dataset again."""

import itertools
import shlex

import pytest
import typer.main

from kd_offline.cli.app import app
from kd_offline.datasets import (
    annotate,
    append,
    card,
    filter,
    merge,
    split,
)
from kd_offline.datasets.metadata.cards import commands
from kd_offline.schemas.dataset import NoiseLevel
from kd_offline.testing.factories import tiny_dataset


@pytest.fixture
def dataset(tmp_path):
    return tiny_dataset(tmp_path / "d.zarr", 10)


def check_command(line):
    """The command exists, with these options."""
    program, name, *arguments = shlex.split(line)
    assert program == "kd-offline"
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments, resilient_parsing=False)


def test_the_commands_that_make_it_again_parse(dataset, tmp_path):
    other = tiny_dataset(tmp_path / "o.zarr", 5, seed=1)
    split(dataset.path, tmp_path / "1.zarr", parts={"train": 0.5, "val": 0.5})
    filter(tmp_path / "1.zarr", tmp_path / "2.zarr", "return > -100 and won in [0, 1]")
    merge([tmp_path / "2.zarr", other.path], tmp_path / "3.zarr", licence="MIT", without=["value"])
    settled = {"arrays": "common", "duplicates": "drop", "licence": "MIT"}
    append(tmp_path / "3.zarr", [other.path], tmp_path / "4.zarr", **settled)
    manifest = annotate(tmp_path / "4.zarr", tmp_path / "5.zarr", description="it's one")
    lines = commands(manifest)
    assert [line.split()[1] for line in lines] == ["split", "filter", "merge", "append", "annotate"]
    for line in lines:
        check_command(line)
    text = card(tmp_path / "5.zarr")
    assert "## Lineage" in text
    assert lines[1] in text
    # Every intermediate result is named once as such, and used by the next step.
    for one, following in itertools.pairwise(lines):
        result = shlex.split(one)[shlex.split(one).index("-o") + 1]
        assert result in shlex.split(following)


def test_the_recording_can_be_repeated(dataset):
    manifest = dataset.manifest
    assert commands(manifest) == []  # the factory is no program
    half = NoiseLevel(level=0.0, share=0.5), NoiseLevel(level=0.25, share=0.5)
    settings = {"partner": "bundled", "partner_share": 0.5, "embedding_dtype": "float16"}
    update = {"software": {"kd_offline": "0.1.0"}, "noise": half, "settings": settings}
    recording = manifest.recording.model_copy(update=update)
    (line,) = commands(manifest.model_copy(update={"recording": recording}))
    check_command(line)
    assert "--noise 0:0.5,0.25:0.5" in line
    assert "--partner bundled --partner-share 0.5 --embedding float16" in line
