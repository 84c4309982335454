"""Planted poison of each kind is found; clean and hostile datasets get no wrong verdict."""

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.analysis import poison_sample
from kd_offline.datasets.analysis.poison import audit_dataset
from kd_offline.datasets.analysis.poison_sample import sources
from kd_offline.datasets.validation.integrity import verify
from kd_offline.errors import CorruptDatasetError, MissingArrayError
from kd_offline.recording.record import record
from kd_offline.testing.factories import environment_spec, tiny_dataset
from kd_offline.tracking.base import FunctionObserver
from tests.unit.datasets.analysis.poisoning import (
    arrays_of,
    drawn,
    exchange_embeddings,
    flip_actions,
    flip_labels,
    restate_probabilities,
    rows_of,
    sealed,
)

FIRST, STOP = 75, 100  # the source that is poisoned, one of eight
ONE_PERCENT = 19  # of its 25 episodes of 25 steps and 3 agents


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    path = tmp_path_factory.mktemp("clean") / "d.zarr"
    record("mpe/simple_spread_v3", path, episodes=200, batch=200, threads=1)
    return ExpertBuffer.open(path)


@pytest.fixture
def poisoned(clean, tmp_path):
    """Return a function that changes the arrays by ``edit(arrays, where)`` and seals them again."""

    def plant(edit, where=None, without=()):
        arrays = arrays_of(clean)
        edit(arrays, rows_of(clean, FIRST, STOP) if where is None else where)
        restate_probabilities(arrays)
        for name in without:
            del arrays[name]
        return sealed(clean, tmp_path / "poisoned.zarr", arrays)

    return plant


def found(report, check):
    """Return the findings of one check in the poisoned source, and assert that no other has any."""
    assert not report.ok
    assert {finding.episodes for finding in report.findings} == {(FIRST, STOP)}
    return [finding for finding in report.findings if finding.check == check]


def test_a_clean_recording_is_silent(clean):
    report = audit_dataset(clean)
    assert (report.ok, report.findings, report.keep) == (True, (), None)
    assert (report.episodes, report.decisions, report.sources) == (200, 15_000, 8)
    assert all(check.tests >= 8 for name, check in report.checks.items() if name != "patterns")
    assert not any(check.note for check in report.checks.values())


def test_flipped_actions_of_one_percent_of_a_source(clean, poisoned, monkeypatch):
    monkeypatch.setattr(poison_sample, "SOURCES", 4)  # of 50 episodes each
    where = drawn(rows_of(clean, 50, 100), 2 * ONE_PERCENT)
    report = audit_dataset(poisoned(flip_actions, where))
    (finding,) = report.findings
    assert (finding.check, finding.episodes) == ("actions", (50, 100))
    assert finding.log10_p < -5
    assert finding.count > 1.5 * finding.expected
    assert sum(where[_row(clean, place)].any() for place in finding.places) >= 8


def test_flipped_labels_of_one_percent_of_a_source(clean, poisoned):
    where = drawn(rows_of(clean, FIRST, STOP), ONE_PERCENT)
    buffer = poisoned(flip_labels, where)
    assert verify(buffer.path).ok  # nothing but the audit tells
    report = audit_dataset(buffer)
    (finding,) = found(report, "outputs")
    assert 0.8 * ONE_PERCENT < finding.count <= ONE_PERCENT
    assert len(finding.places) == 10
    agents = clean.spec.agents
    assert all(where[_row(clean, place), agents.index(place.agent)] for place in finding.places)
    assert report.keep == f"not (episode >= {FIRST} and episode < {STOP})"


def test_labels_whose_embeddings_were_exchanged_too(clean, poisoned):
    original = arrays_of(clean)

    def edit(arrays, where):
        flip_labels(arrays, where)
        exchange_embeddings(arrays, original, where)

    report = audit_dataset(poisoned(edit, drawn(rows_of(clean, FIRST, STOP), 3 * ONE_PERCENT)))
    (finding,) = found(report, "embeddings")
    assert finding.count > 3 * finding.expected
    assert found(report, "outputs") == []


def test_an_expert_that_is_wrong_in_one_region(clean, poisoned):
    original = arrays_of(clean)
    right = original["steps/obs"][..., 2] > 0.3

    def edit(arrays, where):
        flip_labels(arrays, where)
        exchange_embeddings(arrays, original, where)

    report = audit_dataset(poisoned(edit, rows_of(clean, FIRST, STOP) & right))
    labels = found(report, "labels")
    assert labels[0].where is None
    assert labels[0].count > 2 * labels[0].expected


def test_a_trigger_that_goes_with_one_action(clean, poisoned):
    def edit(arrays, where):
        arrays["steps/obs"][where, 7] = 0.777
        flip_labels(arrays, where, target=0)

    where = drawn(rows_of(clean, FIRST, STOP), 4 * ONE_PERCENT)
    without = ["steps/embedding"]  # nothing but the pattern is left to find
    report = audit_dataset(poisoned(edit, where, without))
    triggers = found(report, "patterns")
    assert {finding.agent for finding in triggers} == set(clean.spec.agents)
    assert all("[3] is 0.777, which hardly" in finding.where for finding in triggers)
    assert {finding.action for finding in triggers} == {"stay"}
    assert [finding.count for finding in triggers] == [finding.of for finding in triggers]
    assert report.checks["embeddings"].note == "no embeddings were recorded"


def test_a_trigger_in_all_sources(tmp_path):
    """Sources cannot be compared; an expert that can be predicted well tells nevertheless."""
    spec = environment_spec((4, 4), (3, 3))
    buffer = tiny_dataset(tmp_path / "d", lengths=[20] * 200, spec=spec)
    arrays = arrays_of(buffer)
    arrays["steps/available_actions"][:] = True
    arrays["steps/logits"] = 3 * arrays["steps/obs"][..., :3]
    flip_actions(arrays, rows_of(buffer, 0, 200), target=arrays["steps/logits"].argmax(-1).ravel())
    where = drawn(rows_of(buffer, 0, 200), 100)
    arrays["steps/obs"][where, 3] = 0.777
    flip_labels(arrays, where, target=1)
    restate_probabilities(arrays)
    report = audit_dataset(sealed(buffer, tmp_path / "poisoned", arrays))
    of_all = [finding for finding in report.findings if finding.episodes == (0, 200)]
    assert {finding.agent for finding in of_all} == {"agent_0", "agent_1"}
    assert {finding.action for finding in of_all} == {"a1"}
    assert {finding.where for finding in of_all} == {"others[1] is 0.777"}
    assert report.keep is None  # nothing would be left


def test_the_same_dataset_gives_the_same_report(clean):
    assert audit_dataset(clean) == audit_dataset(clean)


def _row(buffer, place):
    """Return the row of a decision."""
    return int(buffer.episodes("offset")[place.episode]) + place.step


def test_a_few_episodes_are_too_little_to_compare(tmp_path):
    report = audit_dataset(tiny_dataset(tmp_path / "d", 1))
    assert (report.ok, report.sources) == (True, 1)
    assert report.checks["labels"].tests == 0
    assert report.checks["labels"].note == (
        "too little data: expert 0 has 1 episodes, and sources are compared from 100 on"
    )


def test_random_labels_contradict_no_embedding(tmp_path):
    report = audit_dataset(tiny_dataset(tmp_path / "d", lengths=[10] * 120))
    assert report.ok
    assert report.checks["outputs"].tests == 0
    assert "no linear function" in report.checks["outputs"].note


@pytest.mark.parametrize(
    ("widths", "actions"), [((4,), (3,)), ((6, 1, 3), (5, 2, 4)), ((2, 2), (1, 1))]
)
def test_agents_of_any_widths_and_none_with_a_choice(tmp_path, widths, actions):
    buffer = tiny_dataset(tmp_path / "d", lengths=[6] * 100, spec=environment_spec(widths, actions))
    report = audit_dataset(buffer)
    assert report.ok
    assert (report.decisions == 0) == (actions == (1, 1))


def test_observations_that_never_change(clean, tmp_path):
    arrays = arrays_of(clean)
    arrays["steps/obs"][:] = 0.5
    assert audit_dataset(sealed(clean, tmp_path / "d", arrays)).checks["labels"].tests > 0


def test_a_dataset_without_logits_is_refused(tmp_path):
    buffer = tiny_dataset(tmp_path / "d", without=["steps/logits"])
    with pytest.raises(MissingArrayError, match="holds no logits"):
        audit_dataset(buffer)


def test_damage_is_an_error(tmp_path):
    buffer = tiny_dataset(tmp_path / "d")
    chunk = buffer.path / "steps" / "logits" / "c" / "0" / "0" / "0"
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    with pytest.raises(CorruptDatasetError, match="steps/logits"):
        audit_dataset(buffer)


def test_a_share_of_a_large_dataset_is_read(clean, monkeypatch):
    monkeypatch.setattr(poison_sample, "MOST_DECISIONS", 5_000)
    whole, other = sources(clean), sources(clean, seed=1)
    assert {len(source.episodes) for source in whole} == {8}
    assert all(np.ptp(source.episodes) == 7 for source in whole)
    assert any(
        not np.array_equal(a.episodes, b.episodes) for a, b in zip(whole, other, strict=True)
    )
    steps: list[int] = []
    report = audit_dataset(
        clean, observers=[FunctionObserver(progress=lambda done, *_: steps.append(done))]
    )
    assert (report.episodes, report.decisions) == (64, 4_800)
    assert steps == sorted(steps)
