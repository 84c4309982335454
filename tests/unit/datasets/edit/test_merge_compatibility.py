"""Datasets that do not fit each other are refused with every reason."""

import pytest

from kd_offline.datasets import (
    DatasetWriter,
    ExpertBuffer,
    merge,
    verify,
)
from kd_offline.errors import MismatchError
from kd_offline.schemas.dataset import Capture
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    full_mask,
    header,
    tiny_dataset,
)


@pytest.fixture
def other(parent, tmp_path):
    return tiny_dataset(tmp_path / "other.zarr", 12, spec=parent.spec, seed=1)


def recorded(path, spec, *, masks=None, changes=None, expert=None, block=None, seed=2):
    """Record two episodes of which other things are said."""
    head = header(spec, seed=seed)
    if expert is not None:
        head = head.model_copy(update={"experts": (head.experts[0].model_copy(update=expert),)})
    head = head.model_copy(update=changes or {})
    with DatasetWriter.create(path, head) as writer:
        writer.append(block or episode_block(spec, [3, 4], seed=seed))
        writer.commit({"full": full_mask(spec)} if masks is None else masks)
    return ExpertBuffer.open(path)


def conflicting(kind, spec, path):
    """Record two episodes that conflict with the parent in one way."""
    blocks = {
        "lone": {"without": ["steps/value"]},
        "width": {"hidden": 5},
        "dtype": {"embedding_dtype": "float32"},
    }
    experts = {
        "outputs": {"capture": Capture(output="q_values", embedding="random numbers")},
        "layer": {"capture": Capture(embedding="the first layer")},
        "gamma": {"gamma": 0.5},
    }
    if kind == "environment":
        other = environment_spec((6, 3, 5), (5, 2, 4), episode_limit=30)
        return recorded(path, other.model_copy(update={"kwargs": {"local_ratio": 0.2}}))
    if kind == "mask":
        hidden = full_mask(spec).copy()
        hidden[0, 0] = False
        return recorded(path, spec, masks={"full": hidden})
    block = episode_block(spec, [3, 4], seed=2, **blocks.get(kind, {}))
    changes = {"licence": ""} if kind == "licence" else None
    return recorded(path, spec, block=block, expert=experts.get(kind), changes=changes)


@pytest.mark.parametrize(
    ("kind", "words", "cure"),
    [
        ("environment", ["another environment", "kwargs {}", "episode_limit 25 and 30"], None),
        ("lone", ["only some have steps/value", "arrays='common'"], {"arrays": "common"}),
        ("width", ["steps/embedding is float16", "[3, 4]", "[3, 5]"], {"without": ["embedding"]}),
        ("dtype", ["float16 [3, 4]", "float32 [3, 4]"], {"without": ["steps/embedding"]}),
        ("mask", ["mask 'full'"], {"without": ["masks/full"]}),
        ("outputs", ["logits", "q_values", "no one meaning"], {"without": ["logits"]}),
        ("layer", ["layer of the embeddings", "the first layer"], {"without": ["embedding"]}),
        ("gamma", ["0.5", "0.99", "steps/value"], {"without": ["value", "final/value"]}),
        ("licence", ["'CC0-1.0' and none stated", "under which licence"], {"licence": "MIT"}),
    ],
)
def test_conflicts_and_their_cures(parent, tmp_path, kind, words, cure):
    other = conflicting(kind, parent.spec, tmp_path / "o.zarr")
    paths = [parent.path, other.path]
    with pytest.raises(MismatchError) as caught:
        merge(paths, tmp_path / "m.zarr")
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "m.zarr").exists()
    if cure is not None:
        manifest = merge(paths, tmp_path / "m.zarr", **cure)
        assert manifest.statistics.episodes == 42
        assert verify(tmp_path / "m.zarr").ok


def test_every_reason_is_given_at_once(parent, tmp_path):
    block = episode_block(parent.spec, [3, 4], seed=2, hidden=5, without=["steps/value"])
    recorded(tmp_path / "o.zarr", parent.spec, block=block, changes={"licence": "MIT"})
    with pytest.raises(MismatchError) as caught:
        merge([parent.path, tmp_path / "o.zarr"], tmp_path / "m.zarr")
    for word in ("steps/value", "steps/embedding", "licences"):
        assert word in str(caught.value)


def test_full_observations_of_other_widths_are_named(tmp_path):
    specs = [environment_spec((6, 3), (5, 2), full_widths=widths) for widths in ((7, 4), (8, 4))]
    parts = [tiny_dataset(tmp_path / f"{k}.zarr", 3, spec=s, seed=k) for k, s in enumerate(specs)]
    with pytest.raises(MismatchError, match=r"has another environment \(full"):
        merge([part.path for part in parts], tmp_path / "m.zarr")
