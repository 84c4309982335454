"""Targets from a stream: the same numbers as in memory, and the same run where all fits."""

import os
from itertools import islice

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, EpisodeBlock, ExpertBuffer, layout
from kd_offline.distillation import lessons
from kd_offline.distillation.distill import distill
from kd_offline.distillation.lessons import Streamed, first_critic, measured, ordered, taught
from kd_offline.distillation.measures import Deviation
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.roles import fit_roles
from kd_offline.distillation.targets import Lesson, Taught
from kd_offline.errors import StorageError, UsageError
from kd_offline.schemas.dataset import RecordingHeader
from kd_offline.students.networks import StudentInputs, StudentTeam
from kd_offline.tracking.base import FunctionObserver
from kd_offline.types import Array

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


def lesson_for(buffer, recipe):
    loader = ordered(buffer, buffer.split("train"), recipe)
    measures = measured(loader, recipe)
    rng = np.random.default_rng(0)
    team = StudentTeam(buffer.spec, recipe.student, (8, 8, 8), rng, StudentInputs(motion=True))
    team.scale_inputs(measures.scale)
    roles = fit_roles(buffer, buffer.split("train"), recipe.switches)
    return loader, Lesson(buffer.spec, first_critic(buffer), recipe, measures, team, roles)


def close(one, other):
    assert one.sizes == other.sizes
    found = other.targets.tensors()
    assert one.targets.tensors().keys() == found.keys()
    for name, values in one.targets.tensors().items():
        torch.testing.assert_close(values, found[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    "settings", [{}, {"switches.centre": True, "switches.ce_target": "sampled"}]
)
def test_a_stream_gives_the_targets_of_memory(chunked, settings):
    whole_loader, whole_lesson = lesson_for(chunked, distill_recipe(settings=settings))
    whole = taught(whole_loader, whole_lesson)
    small = distill_recipe(settings=settings | {"memory_mb": BUDGET})
    loader, lesson = lesson_for(chunked, small)
    streamed = taught(loader, lesson)
    assert isinstance(whole, Taught)
    assert isinstance(streamed, Streamed)
    for name in ("mean", "std"):
        one, other = (getattr(x.measures.advantage, name) for x in (lesson, whole_lesson))
        assert np.array_equal(one, other)
    for one, other in zip(lesson.measures.scale, whole_lesson.measures.scale, strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(streamed.parts(20), whole.parts(20), strict=True):
        close(one, other)


def test_an_epoch_of_a_stream_is_every_episode_once(chunked):
    recipe = distill_recipe(settings={"memory_mb": BUDGET})
    loader, lesson = lesson_for(chunked, recipe)
    streamed = taught(loader, lesson)
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
    original = lessons.Streamed.epoch

    def interrupted(self, size, seed, epoch):
        streamed.append(epoch)
        if streamed == [0, 1]:
            yield from islice(original(self, size, seed, epoch), 1)
            raise KeyboardInterrupt
        yield from original(self, size, seed, epoch)

    monkeypatch.setattr(lessons.Streamed, "epoch", interrupted)
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
    with pytest.raises(UsageError, match=r"this machine has 0\.0: give --memory-mb"):
        ordered(chunked, chunked.split("train"), distill_recipe())


def test_deviations_are_merged_exactly_enough():
    rng = np.random.default_rng(0)
    values, weight = 1000 + rng.random((40, 7, 3)), rng.random((40, 7, 1)) < 0.7
    merged = Deviation((0, 1))
    for first in range(0, 40, 9):
        merged.add(values[first : first + 9], weight[first : first + 9])
    chosen = values[weight[..., 0]]
    np.testing.assert_allclose(merged.mean, chosen.mean(0), rtol=1e-14)
    np.testing.assert_allclose(merged.std, chosen.std(0), rtol=1e-10)
