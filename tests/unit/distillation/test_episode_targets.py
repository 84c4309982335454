"""Targets from a stream: the same numbers as in memory, and the same run where all fits."""

import os
import tracemalloc
from itertools import islice

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, EpisodeBlock, ExpertBuffer, merge
from kd_offline.datasets.format import layout
from kd_offline.distillation.dataset_statistics import Deviation
from kd_offline.distillation.distill import distill
from kd_offline.distillation.episode_targets import StreamedTargets, in_file_order
from kd_offline.distillation.own_episodes import own_episodes
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.targets import TargetStore
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.errors import StorageError, UsageError
from kd_offline.schemas.dataset import RecordingHeader
from kd_offline.students.networks import StudentInputs
from kd_offline.tracking.base import FunctionObserver
from kd_offline.types import Array
from tests.unit.distillation.preparing import prepared

SMALL = {"optimisation.epochs": 2, "optimisation.batch_episodes": 16, "student.hidden": 8}
BUDGET = 0.6


@pytest.fixture(scope="module")
def chunked(buffer, tmp_path_factory):
    """The recording in chunks of 64 rows, some longer episodes cut short."""
    path = tmp_path_factory.mktemp("chunked") / "d.zarr"
    header = RecordingHeader(
        **{
            name: getattr(buffer.manifest, name)
            for name in ("name", "environment", "experts", "recording", "masks")
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "MAX_CHUNK_ROWS", 64)
        patch.setattr(layout, "MIN_CHUNK_ROWS", 64)
        with DatasetWriter.create(path, header) as writer:
            writer.append(_block(buffer))
            writer.commit({name: buffer.mask(name) for name in buffer.mask_names})
    return ExpertBuffer.open(path)


def _block(buffer):
    groups: dict[str, dict[str, Array]] = {"steps": {}, "final": {}, "episodes": {}}
    for full in buffer.names:
        group, name = full.split("/")
        if group in groups and not layout.rule_for(full).derived:
            groups[group][name] = buffer.read(full)
    return EpisodeBlock(**groups)


def learned(buffer, **settings):
    return prepared(buffer, distill_recipe(settings=settings), inputs=StudentInputs(motion=True))


def close(one, other):
    assert one.sizes == other.sizes
    found = other.targets.tensors()
    assert one.targets.tensors().keys() == found.keys()
    for name, values in one.targets.tensors().items():
        torch.testing.assert_close(values, found[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    "settings", [{}, {"terms.structure.centre": True, "terms.ce.target": "sampled"}]
)
def test_a_stream_gives_the_targets_of_memory(chunked, settings):
    one, other = learned(chunked, **settings), learned(chunked, **settings, memory_mb=BUDGET)
    whole, streamed = one.targets, other.targets
    assert isinstance(whole, TargetStore)
    assert isinstance(streamed, StreamedTargets)
    for name in ("mean", "std"):
        mine, same = (getattr(x.terms.terms["policy"].statistics, name) for x in (one, other))
        assert np.array_equal(mine, same)
    scales = (x.context.statistics.scale for x in (one, other))
    assert all(map(np.array_equal, *scales))
    for part, same in zip(streamed.parts(20), whole.parts(20), strict=True):
        close(part, same)


def test_an_epoch_of_a_stream_is_every_episode_once(chunked):
    streamed = learned(chunked, memory_mb=BUDGET).targets
    batches = list(streamed.epoch(8, seed=1, epoch=2))
    assert len(batches) == len(streamed) // 8
    again = list(streamed.epoch(8, seed=1, epoch=2))
    for one, other in zip(batches, again, strict=True):
        assert torch.equal(one.targets.inputs, other.targets.inputs)
    firsts = torch.cat([batch.targets.inputs[: batch.sizes[0]] for batch in batches])
    assert len(torch.unique(firsts, dim=0)) == len(batches) * 8
    everyone = torch.cat([b.targets.inputs[: b.sizes[0]] for b in streamed.parts(8)])
    assert {tuple(x.flatten().tolist()) for x in firsts} <= {
        tuple(x.flatten().tolist()) for x in everyone
    }


def test_the_memory_of_a_stream_grows_with_the_budget_and_not_with_the_episodes(
    buffer, tmp_path, monkeypatch
):
    """Arrays of all steps would take some 6 kB an episode here."""
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 64)
    monkeypatch.setattr(layout, "MIN_CHUNK_ROWS", 64)
    peaks = []
    for copies in (2, 8):
        path = tmp_path / f"{copies}.zarr"
        merge([buffer.path] * copies, path, duplicates="keep")
        streamed = learned(ExpertBuffer.open(path), memory_mb=BUDGET).targets
        assert isinstance(streamed, StreamedTargets)
        tracemalloc.start()
        try:
            for batch in streamed.epoch(8, seed=1, epoch=0):
                del batch
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 500 * 6 * buffer.n_episodes


def test_an_epoch_of_a_stream_holds_the_episodes_alone_that_a_seed_drew(chunked):
    streamed = learned(chunked, memory_mb=BUDGET, diverse=0.2).targets
    assert isinstance(streamed, StreamedTargets)
    own = own_episodes(len(streamed), 4, 3, 0.2)
    first_steps = [b.targets.inputs[0].flatten().tolist() for b in streamed.parts(1)]
    mine = [first_steps[k] for k in own]
    batches = list(streamed.epoch(4, seed=3, epoch=1))
    assert len(batches) == len(streamed) // 4
    for batch in batches:
        shown = batch.targets.inputs[: batch.sizes[0]].flatten(1)
        assert all(row in mine for row in shown.tolist())


def weights(run):
    return [result.digest for result in run.results]


def test_a_budget_that_holds_everything_changes_nothing(chunked, tmp_path):
    runs = [
        distill(chunked.path, tmp_path / f"{budget}", distill_recipe(settings=SMALL | extra))
        for budget, extra in (("none", {}), ("large", {"memory_mb": 500}))
    ]
    assert weights(runs[0]) == weights(runs[1])


def test_a_streamed_run_learns_and_can_be_interrupted(chunked, tmp_path, monkeypatch):
    recipe = distill_recipe(settings=SMALL | {"memory_mb": BUDGET})
    whole = distill(chunked.path, tmp_path / "whole", recipe)
    streamed = []
    original = StreamedTargets.epoch

    def interrupted(self, size, seed, epoch):
        streamed.append(epoch)
        if streamed == [0, 1]:
            yield from islice(original(self, size, seed, epoch), 1)
            raise KeyboardInterrupt
        yield from original(self, size, seed, epoch)

    monkeypatch.setattr(StreamedTargets, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill(chunked.path, tmp_path / "run", recipe)
    # With another number of threads too: they change no bits.
    slower = recipe.model_copy(update={"threads": recipe.threads + 1})
    again = distill(chunked.path, tmp_path / "run", slower, resume=True)
    assert streamed[:2] == [0, 1]
    assert weights(again) == weights(whole)
    assert whole.results[0].held_out["kl"] < 1.5


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked there")
def test_two_distillations_in_one_folder_are_refused(chunked, tmp_path):
    recipe = distill_recipe(settings=SMALL | {"optimisation.epochs": 1})

    refused = []

    def meanwhile(step, values, series):
        with pytest.raises(StorageError, match="another process is distilling in"):
            distill(chunked.path, tmp_path / "run", recipe, resume=True)
        refused.append(step)

    observers = [FunctionObserver(metrics=meanwhile)]
    assert distill(chunked.path, tmp_path / "run", recipe, observers=observers).status == "complete"
    assert refused


def test_too_little_memory_is_told_before_anything_is_read(chunked, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    with pytest.raises(UsageError, match=r"has 0\.0: to stream it, set settings\['memory_mb'\]"):
        in_file_order(chunked, chunked.split("train"), ActiveTerms.of(distill_recipe()))


def test_deviations_are_merged_exactly_enough():
    rng = np.random.default_rng(0)
    values, weight = 1000 + rng.random((40, 7, 3)), rng.random((40, 7, 1)) < 0.7
    merged = Deviation((0, 1))
    for first in range(0, 40, 9):
        merged.add(values[first : first + 9], weight[first : first + 9])
    chosen = values[weight[..., 0]]
    np.testing.assert_allclose(merged.mean, chosen.mean(0), rtol=1e-14)
    np.testing.assert_allclose(merged.std, chosen.std(0), rtol=1e-10)
