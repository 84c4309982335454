import json

import pytest

from kd_offline import datasets
from kd_offline.datasets.format import layout
from kd_offline.datasets.metadata.summary import render, summarise
from kd_offline.errors import NotADatasetError


def test_machine_readable_report(ragged):
    report = json.loads(datasets.inspect(ragged.path).model_dump_json())
    assert list(report) == [
        "id",
        "format_version",
        "environment",
        "agents",
        "episodes",
        "steps",
        "arrays",
        "return",
        "side_returns",
        "conflicts",
        "blind_spots",
        "bytes",
        "bytes_moved",
    ]
    assert report["format_version"] == list(layout.FORMAT_VERSION)
    assert report["arrays"]["steps/logits"] == {"shape": [ragged.n_steps, 3, 5], "dtype": "float32"}
    returns = ragged.episodes("return")
    assert report["return"] == pytest.approx({"mean": returns.mean(), "std": returns.std()})
    stored = sum(f.stat().st_size for f in ragged.path.rglob("*") if f.is_file())
    assert report["bytes"] == stored


def test_page_for_people(ragged):
    lines = render(ragged)
    page = "\n".join(lines)
    for text in (ragged.id, "agent_2", "train 38, heldout 2", "steps/embedding", "test/random_v0"):
        assert text in page
    assert max(map(len, lines)) <= 120


def test_no_dataset(tmp_path):
    with pytest.raises(NotADatasetError):
        datasets.inspect(tmp_path)


def test_summary_of_an_open_dataset(ragged):
    assert summarise(ragged) == datasets.inspect(ragged.path)
