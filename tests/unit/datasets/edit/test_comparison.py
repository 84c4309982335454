import numpy as np
import pytest

from kd_offline.datasets import DatasetWriter, EpisodeBlock, ExpertBuffer, diff, filter, split
from kd_offline.datasets.edit import rewrite
from kd_offline.datasets.edit.comparison import render
from kd_offline.datasets.format.splits import Splits
from kd_offline.errors import NotADatasetError
from kd_offline.schemas.dataset_outputs import ValueDifference
from kd_offline.testing.factories import environment_spec, episode_block, header, tiny_dataset

SPEC = environment_spec((6, 3), (5, 2))


def block(seed=0, lengths=(3, 9, 4, 7)):
    return episode_block(SPEC, lengths, seed=seed)


def write(path, made: EpisodeBlock, **changes):
    with DatasetWriter.create(path, header(SPEC).model_copy(update=changes)) as writer:
        writer.append(made)
        writer.commit()
    return path


@pytest.fixture
def a(tmp_path, small_chunks, monkeypatch):
    monkeypatch.setattr(rewrite, "BLOCK_BYTES", 2000)
    return write(tmp_path / "a.zarr", block())


def changed(made, **steps):
    return EpisodeBlock({**made.steps, **steps}, made.final, made.episodes)


def test_a_dataset_equals_itself(a):
    report = diff(a, a)
    assert report.equal
    assert (report.fields, report.arrays, report.values) == ((), (), {})
    assert report.episodes.common == 4
    assert render(report)[0].startswith("equal: both are sha256:")


def test_what_is_said_is_no_content(a, tmp_path):
    b = write(tmp_path / "b.zarr", block(), licence="MIT", name="other")
    report = diff(a, b)
    assert report.equal
    assert {field.name: field.b for field in report.fields} == {"name": "other", "licence": "MIT"}
    assert "licence: 'CC0-1.0' | 'MIT'" in render(report)
    assert render(report)[0] == "equal content"


def test_values_of_common_episodes(a, tmp_path):
    made = block()
    logits, alive = made.steps["logits"].copy(), made.steps["alive"].copy()
    logits[3:5, 0, 1] += 0.25  # in episode 1
    logits[-1, 1, 0] -= 2  # in episode 3
    alive[0] = False
    b = write(tmp_path / "b.zarr", changed(made, logits=logits, alive=alive))
    report = diff(a, b)
    assert not report.equal
    assert {x.name: x.what for x in report.arrays} == {
        "steps/logits": "values",
        "steps/alive": "values",
    }
    assert report.values["steps/alive"] == ValueDifference(entries=2, episodes=1, largest=1.0)
    found = report.values["steps/logits"]
    assert (found.entries, found.episodes) == (3, 2)
    assert found.largest == pytest.approx(2)
    assert "steps/logits: 3 entries of 2 episodes differ, by 2 at most" in "\n".join(render(report))
    assert diff(a, b, values=False).values == {}


def test_arrays_that_are_not_alike(a, tmp_path):
    made = episode_block(SPEC, (3, 9, 4, 7), hidden=5, without=["steps/value", "final/value"])
    b = write(tmp_path / "b.zarr", made)
    found = {x.name: (x.what, x.a, x.b) for x in diff(a, b).arrays}
    assert found["steps/value"] == ("absent", "float32 [23, 2]", "absent")
    assert found["steps/embedding"][0] == "shape"


def test_episodes_are_found_in_another_order(a, tmp_path):
    buffer = ExpertBuffer.open(a)
    plan = rewrite.RewritePlan(
        header(SPEC),
        tuple(rewrite.EpisodeSelection(buffer, np.array([k])) for k in (2, 0, 3)),
        rewrite.copied_arrays(buffer),
        (),
        Splits(np.zeros(3, np.uint8), {"train": 0, "heldout": 1}),
    )
    rewrite.rewrite(plan, tmp_path / "b.zarr")
    report = diff(a, tmp_path / "b.zarr")
    match = report.episodes
    assert (match.common, match.only_a, match.only_b) == (3, 1, 0)
    assert not match.same_order
    assert set(report.values) <= {"episodes/split"}
    assert "in another order" in "\n".join(render(report))
    assert all(x.what == "rows" for x in report.arrays if x.name.startswith("steps/"))


def test_episodes_without_seeds_go_by_their_content(tmp_path, a):
    bare = block()
    del bare.episodes["seed"]
    b = write(tmp_path / "b.zarr", bare)
    report = diff(a, b)
    assert report.episodes.matched_by == "actions and rewards"
    assert report.episodes.common == 4
    assert set(report.values) == set()
    other = write(tmp_path / "c.zarr", block(seed=5))
    report = diff(a, other)
    assert (report.episodes.common, report.episodes.only_a, report.episodes.only_b) == (0, 4, 4)


def test_an_episode_that_is_there_twice_is_matched_once(tmp_path, a):
    made = block()
    steps, final, episodes = (
        {name: np.concatenate([values, values]) for name, values in group.items()}
        for group in (made.steps, made.final, made.episodes)
    )
    twice = EpisodeBlock(steps, final, episodes)
    b = write(tmp_path / "b.zarr", twice)
    assert diff(a, b).episodes.only_b == 4
    assert diff(b, a).episodes.common == 4


def test_episodes_that_last_differently(tmp_path, a):
    made = block(lengths=(3, 8, 4, 7))
    made.episodes["seed"][:] = block().episodes["seed"]
    report = diff(a, write(tmp_path / "b.zarr", made))
    assert report.episodes.common == 4
    assert report.values["episodes/length"].entries == 1


def test_derived_datasets(tmp_path, small_chunks):
    parent = tiny_dataset(tmp_path / "p.zarr", 20)
    split(parent.path, tmp_path / "s.zarr", heldout=0.5)
    report = diff(parent.path, tmp_path / "s.zarr")
    assert set(report.values) == {"episodes/split"}
    filter(parent.path, tmp_path / "f.zarr", "episode >= 15")
    report = diff(parent.path, tmp_path / "f.zarr")
    assert (report.episodes.common, report.episodes.only_a, report.values) == (5, 15, {})


def test_no_dataset(a, tmp_path):
    with pytest.raises(NotADatasetError):
        diff(a, tmp_path / "absent")
