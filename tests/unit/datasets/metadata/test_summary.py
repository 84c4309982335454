import json
from dataclasses import replace

import numpy as np
import pytest

from kd_offline import datasets
from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.datasets.format import layout
from kd_offline.datasets.metadata.summary import expert_conflicts, render, summarise
from kd_offline.errors import NotADatasetError
from kd_offline.testing.factories import (
    environment_spec,
    episode_block,
    full_mask,
    header,
    tiny_dataset,
)

SPEC = environment_spec((1,), (2,))


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


def recorded(path, chances, experts, obs, legal=None):
    """One step an episode: the probability of the first action, the expert, what was seen."""
    count = len(chances)
    top = header(SPEC)
    (expert,) = top.experts
    records = [
        expert.model_copy(update={"id": one, "digest": f"sha256:{one:064d}"})
        for one in sorted(set(experts))
    ]
    block = episode_block(SPEC, [1] * count, without=("steps/behaviour_logprob",))
    both = np.stack([chances, 1 - np.array(chances)], -1)
    steps = {
        **block.steps,
        "logits": np.log(both).astype(np.float32)[:, None],
        "obs": np.array(obs, np.float32).reshape(count, 1, 1),
        "available_actions": np.ones((count, 1, 2), bool) if legal is None else legal,
        "actions": np.zeros((count, 1), np.int16),
    }
    episodes = {**block.episodes, "expert_id": np.array(experts, np.int16)}
    header_of_all = top.model_copy(update={"experts": tuple(records)})
    with DatasetWriter.create(path, header_of_all) as writer:
        writer.append(replace(block, steps=steps, episodes=episodes))
        writer.commit({"full": full_mask(SPEC)})
    return ExpertBuffer.open(path)


def kl(p, q):
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def test_the_divergence_of_the_nearest_decisions_both_ways(tmp_path):
    chances = [0.9, 0.5, 0.2, 0.6]
    buffer = recorded(tmp_path / "d.zarr", chances, [0, 0, 3, 3], [0, 9, 0, 9])
    (found,) = expert_conflicts(buffer)
    assert found.experts == (0, 3)
    pairs = [(0.9, 0.2), (0.5, 0.6), (0.2, 0.9), (0.6, 0.5)]
    assert found.kl == pytest.approx(np.mean([kl(p, q) for p, q in pairs]), rel=1e-5)
    assert found.compared == 1.0
    assert summarise(buffer).conflicts == (found,)
    line = next(line for line in render(buffer) if line.startswith("conflict"))
    assert line.startswith(f"conflict     experts 0 and 3: KL {found.kl:.3f} nats, 100% of")


def test_what_only_one_of_them_saw_is_not_compared(tmp_path):
    buffer = recorded(tmp_path / "d.zarr", [0.9, 0.5, 0.2], [0, 0, 1], [0, 90, 0])
    (found,) = expert_conflicts(buffer)
    assert found.kl == pytest.approx((kl(0.9, 0.2) + kl(0.2, 0.9)) / 2, rel=1e-5)
    assert found.compared == pytest.approx(2 / 3)


def test_experts_that_were_never_near_have_no_divergence(tmp_path):
    buffer = recorded(tmp_path / "d.zarr", [0.9, 0.2], [0, 1], [0, 90])
    (found,) = expert_conflicts(buffer)
    assert (found.kl, found.compared) == (None, 0.0)
    assert any("nothing to compare" in line for line in render(buffer))


def test_decisions_without_a_choice_do_not_count(tmp_path):
    legal = np.ones((3, 1, 2), bool)
    legal[2, 0, 1] = False
    buffer = recorded(tmp_path / "d.zarr", [0.9, 0.2, 0.5], [0, 1, 1], [0, 0, 0], legal)
    (found,) = expert_conflicts(buffer)
    assert found.kl == pytest.approx((kl(0.9, 0.2) + kl(0.2, 0.9)) / 2, rel=1e-5)


def test_every_two_of_three_are_compared(tmp_path):
    buffer = recorded(tmp_path / "d.zarr", [0.9, 0.5, 0.2], [0, 1, 2], [0, 0, 0])
    assert [found.experts for found in expert_conflicts(buffer)] == [(0, 1), (0, 2), (1, 2)]


def test_one_expert_or_none_with_logits_has_no_conflict(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr")
    assert expert_conflicts(buffer) == ()
    assert summarise(buffer).conflicts is None
