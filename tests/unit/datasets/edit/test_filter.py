import numpy as np
import pytest

from kd_offline.datasets import (
    Conditions,
    DatasetWriter,
    ExpertBuffer,
    annotate,
    filter,
    merge,
    verify,
)
from kd_offline.datasets.sharing.share import pack
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.testing.factories import episode_block, full_mask, header, tiny_dataset
from kd_offline.tracking.base import FunctionObserver


def check_same_episodes(parent, path, chosen):
    """The dataset at ``path`` holds the ``chosen`` episodes of ``parent`` and nothing else."""
    made = ExpertBuffer.open(path)
    assert verify(path).ok
    for name in set(made.names) - {"episodes/offset"}:
        want = parent.load([name], np.asarray(chosen))[name]
        assert np.array_equal(made.read(name), want), name
    return made


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (Conditions(return_above=2.5), lambda b: b.episodes("return") > 2.5),
        (Conditions(return_below=-1), lambda b: b.episodes("return") < -1),
        (Conditions(won=True), lambda b: b.episodes("won") == 1),
        (Conditions(min_length=9, max_length=14), lambda b: np.isin(b.episodes("length"), [9, 14])),
        (Conditions(noise=0.0, expert=0, episodes=(5, 10)), lambda b: np.arange(40) // 5 == 1),
        (Conditions(split="heldout"), lambda b: b.episodes("split") == 1),
        ("return > 0", lambda b: b.episodes("return") > 0),
    ],
)
def test_conditions(parent, tmp_path, conditions, expected):
    filter(parent.path, tmp_path / "f.zarr", conditions)
    check_same_episodes(parent, tmp_path / "f.zarr", np.flatnonzero(expected(parent)))


def test_the_best_are_kept_in_their_order(parent, tmp_path):
    filter(parent.path, tmp_path / "f.zarr", Conditions(won=True, top=0.25))
    won = np.flatnonzero(parent.episodes("won") == 1)
    best = won[np.argsort(-parent.episodes("return")[won])[:5]]
    check_same_episodes(parent, tmp_path / "f.zarr", np.sort(best))


def test_what_the_result_says(parent, tmp_path):
    manifest = filter(
        parent.path, tmp_path / "f.zarr", Conditions(where="length > 5", top=0.5), name="best"
    )
    assert manifest.name == "best"
    assert manifest.licence == "CC0-1.0"
    (step,) = manifest.lineage
    assert step.arguments == {"where": "length > 5", "top": 0.5}
    second = filter(tmp_path / "f.zarr", tmp_path / "g.zarr", "length > 6")
    assert second.name == "best-filtered"
    assert [s.operation for s in second.lineage] == ["filter", "filter"]
    assert second.lineage[0].result == manifest.id
    assert second.lineage[1].result is None


def test_everything_is_the_same_content(parent, tmp_path):
    assert filter(parent.path, tmp_path / "f.zarr", "length > 0").id == parent.id


def test_arrays_are_left_out(parent, tmp_path):
    without = ["embedding", "final/value", "masks/full"]
    manifest = filter(parent.path, tmp_path / "f.zarr", without=without)
    assert set(parent.names) - set(manifest.arrays) == {
        "steps/embedding",
        "final/value",
        "masks/full",
    }
    assert manifest.masks == {}
    check_same_episodes(parent, tmp_path / "f.zarr", np.arange(40))


def test_masks_of_every_episode_stay_with_it(tmp_path, small_chunks, small_blocks):
    drawn = np.random.default_rng(0).random((12, 3, 6)) < 0.5
    given = tiny_dataset(tmp_path / "d.zarr", 12, masks={"drawn": drawn})
    filter(given.path, tmp_path / "f.zarr", "episode >= 7")
    assert np.array_equal(ExpertBuffer.open(tmp_path / "f.zarr").mask("drawn"), drawn[7:])


def test_experts_that_did_not_play_are_left_out(parent, tmp_path):
    other = header(parent.spec, seed=3)
    other = other.model_copy(
        update={"experts": (other.experts[0].model_copy(update={"digest": "sha256:" + "1" * 64}),)}
    )
    with DatasetWriter.create(tmp_path / "o.zarr", other) as writer:
        writer.append(episode_block(parent.spec, [3, 4], seed=9))
        writer.commit({"full": full_mask(parent.spec)})
    merged = merge([parent.path, tmp_path / "o.zarr"], tmp_path / "m.zarr")
    assert [expert.id for expert in merged.experts] == [0, 1]
    kept = filter(tmp_path / "m.zarr", tmp_path / "f.zarr", Conditions(expert=1))
    assert [expert.id for expert in kept.experts] == [1]
    assert kept.statistics.episodes == 2
    assert verify(tmp_path / "f.zarr").ok
    with pytest.raises(UsageError, match="expert_id cannot be left out"):
        filter(tmp_path / "m.zarr", tmp_path / "g.zarr", without=["episodes/expert_id"])


@pytest.mark.parametrize(
    ("conditions", "without", "words"),
    [
        (Conditions(), (), "nothing says which episodes"),
        ("return > 1e9", (), "no episode .* meets the conditions"),
        (Conditions(episodes=(5, 5)), (), "no range"),
        (Conditions(top=0.0), (), "above 0"),
        (Conditions(split="test"), (), "unknown split 'test'"),
        (Conditions(), ["steps/obs"], "cannot be left out"),
        (Conditions(), ["logit"], "did you mean|unknown array"),
    ],
)
def test_refusals(parent, tmp_path, conditions, without, words):
    with pytest.raises(UsageError, match=words):
        filter(parent.path, tmp_path / "f.zarr", conditions, without=without)
    assert not (tmp_path / "f.zarr").exists()


def test_a_task_without_winning(tmp_path):
    block = episode_block(header().environment, [3, 4])
    block.episodes["won"][:] = -1
    with DatasetWriter.create(tmp_path / "d.zarr", header()) as writer:
        writer.append(block)
        writer.commit()
    with pytest.raises(UsageError, match="no notion of winning"):
        filter(tmp_path / "d.zarr", tmp_path / "f.zarr", Conditions(won=True))


def test_a_packed_parent(parent, tmp_path):
    pack(parent.path, tmp_path / "p.zarr.zip")
    packed = f"{tmp_path / 'p.zarr.zip'}@{parent.id[:30]}"
    assert filter(packed, tmp_path / "f.zarr", "length > 0").id == parent.id
    assert annotate(packed, tmp_path / "a.zarr", name="unpacked").id == parent.id
    assert verify(tmp_path / "a.zarr").ok


def test_an_interrupted_filter_is_continued(parent, tmp_path, eager_journal):
    def stop(done, total, unit):
        if done >= 6:
            raise KeyboardInterrupt

    whole = filter(parent.path, tmp_path / "whole.zarr", "won == 1")
    with pytest.raises(KeyboardInterrupt):
        filter(
            parent.path,
            tmp_path / "f.zarr",
            "won == 1",
            observers=[FunctionObserver(progress=stop)],
        )
    with pytest.raises(ValueError, match="other settings"):
        filter(parent.path, tmp_path / "f.zarr", "won == 0", resume=True)
    seen = []

    watching = [FunctionObserver(progress=lambda done, total, unit: seen.append((done, total)))]
    resumed = filter(parent.path, tmp_path / "f.zarr", "won == 1", resume=True, observers=watching)
    assert seen[0][0] > 6
    assert seen[-1] == (20, 20)
    assert resumed.id == whole.id
    assert verify(tmp_path / "f.zarr").ok


def test_unknown_conditions():
    with pytest.raises(TypeError):
        Conditions(returns_above=1)  # type: ignore[call-arg]
    assert issubclass(UnknownNameError, UsageError)
