import re

import pytest

from kd_offline.datasets import (
    DatasetWriter,
    ExpertBuffer,
    annotate,
    card,
)
from kd_offline.datasets.metadata.cards import metadata
from kd_offline.errors import StorageError
from kd_offline.testing.factories import episode_block, header, tiny_dataset


def parsed(text):
    """Return the card as the Hub's own library reads it."""
    hub = pytest.importorskip("huggingface_hub")
    return hub.DatasetCard(text)


@pytest.fixture
def dataset(tmp_path):
    return tiny_dataset(tmp_path / "d.zarr", 10)


def test_the_header_is_the_hubs(dataset):
    data = parsed(card(dataset.path)).data
    assert data.license == "cc0-1.0"
    assert data.pretty_name == "test/random"
    assert data.task_categories == ["reinforcement-learning"]
    assert data.size_categories == ["n<1K"]
    assert "multi-agent" in data.tags


@pytest.mark.parametrize(
    ("licence", "identifier", "name"),
    [
        ("CC-BY-4.0", "cc-by-4.0", None),
        ("MIT", "mit", None),
        ("", "unknown", None),
        ('ours: "ask" # us\nplease', "other", 'ours: "ask" # us\nplease'),
    ],
)
def test_licences(dataset, tmp_path, licence, identifier, name):
    annotate(dataset.path, tmp_path / "a.zarr", licence=licence)
    data = parsed(card(tmp_path / "a.zarr")).data
    assert data.license == identifier
    assert getattr(data, "license_name", None) == name


def test_names_cannot_break_the_header(dataset, tmp_path):
    name = 'a: [b --- license: mit "é'
    annotate(dataset.path, tmp_path / "a.zarr", name=name, licence="")
    data = parsed(card(tmp_path / "a.zarr")).data
    assert data.pretty_name == name
    assert data.license == "unknown"


@pytest.mark.parametrize(
    ("steps", "category"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (750_000, "100K<n<1M"), (10**12, "n>1T")],
)
def test_sizes(dataset, steps, category, monkeypatch):
    monkeypatch.setattr(ExpertBuffer, "n_steps", steps)
    assert metadata(dataset)["size_categories"] == [category]


def test_every_section_is_there(dataset):
    text = card(dataset.path)
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles == [
        "Loading it",
        "Environment",
        "Experts",
        "How it was made",
        "Arrays",
        "Student masks",
        "Splits",
        "Statistics",
        "Integrity",
        "Known limits",
        "Citation",
    ]
    assert text.count(dataset.id) == 2
    for name in dataset.names:
        assert f"| `{name}` |" in text


def test_the_loading_example_runs(dataset, monkeypatch):
    monkeypatch.chdir(dataset.path.parent)
    dataset.path.rename("dataset.zarr")
    (code,) = re.findall(r"```python\n(.*?)```", card("dataset.zarr"), re.DOTALL)
    space: dict[str, object] = {}
    exec(code, space)
    assert space["train"]


def test_the_strength_of_every_expert(tmp_path):
    block = episode_block(header().environment, [3, 4, 5])
    block.episodes["noise_level"][2] = 0.5
    with DatasetWriter.create(tmp_path / "d.zarr", header()) as writer:
        writer.append(block)
        writer.commit()
    returns = ExpertBuffer.open(tmp_path / "d.zarr").episodes("return")
    text = card(tmp_path / "d.zarr")
    row = f"| 0 | 0 | 2 | {returns[:2].mean():.3f} ± {returns[:2].std():.3f} | 50.0% |"
    assert row in text
    assert f"| 0 | 0.5 | 1 | {returns[2]:.3f} ± 0.000 | 0.0% |" in text


def test_limits_follow_from_the_content(tmp_path):
    without = ["steps/logits", "steps/embedding", "episodes/seed"]
    tiny_dataset(tmp_path / "d.zarr", 4, without=without)
    annotate(tmp_path / "d.zarr", tmp_path / "a.zarr", licence="")
    text = card(tmp_path / "a.zarr")
    for words in ("only cloning methods", "no embeddings", "no seeds", "No licence"):
        assert words in text
    assert "values of a critic" not in text


def test_writing(dataset, tmp_path):
    path = tmp_path / "README.md"
    text = card(dataset.path, path)
    assert path.read_text("utf-8") == text
    with pytest.raises(StorageError, match="overwrite=True"):
        card(dataset.path, path)
    card(dataset.path, path, overwrite=True)
    with pytest.raises(StorageError, match="is not a folder"):
        card(dataset.path, path / "README.md")
