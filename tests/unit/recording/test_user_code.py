"""Recording with environments and experts that fail: what is said, what is kept, what goes on."""

import numpy as np
import pytest
from gymnasium import spaces

from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.datasets.format.layout import JOURNAL
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import MismatchError, UsageError, UserCodeError
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.train import train
from kd_offline.recording.record import record
from kd_offline.seeding import episode_seeds
from kd_offline.tracking.base import FunctionObserver
from tests.unit.recording.faulty import RAISED, Faulty

HERE = "tests.unit.recording.faulty"
NAME = f"pettingzoo/{HERE}:parallel_env"
SEEDS = [int(seed) for seed in episode_seeds(0, 0, 12, "record")]


def make(path, threads=1, settings=None, **more):
    return record(
        NAME,
        path,
        **{
            "expert": f"python:{HERE}:expert",
            "episodes": 12,
            "batch": 4,
            "threads": threads,
            "environment_kwargs": settings or {},
            "partner": None,
        }
        | more,
    )


@pytest.mark.parametrize("fault", RAISED)
def test_whatever_a_step_raises_is_told_with_its_place(tmp_path, fault):
    settings = {"call": "step", "fault": fault, "seed_of_fault": SEEDS[5]}
    with pytest.raises(UserCodeError) as caught:
        make(tmp_path / "d", settings=settings)
    said = str(caught.value)
    assert said.startswith(f"environment '{NAME}' failed in step (step 3, seed {SEEDS[5]}): ")
    assert type(RAISED[fault]()).__name__ in said
    assert said.isprintable()
    assert len(said) < 600


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_that_an_environment_raises_is_an_interrupt(tmp_path, threads, monkeypatch):
    monkeypatch.setitem(RAISED, "value", KeyboardInterrupt)
    settings = {"call": "step", "fault": "value", "seed_of_fault": SEEDS[5]}
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "d", threads, settings)
    monkeypatch.setattr(Faulty, "_fail", lambda self, call: None)
    assert make(tmp_path / "d", threads, settings, resume=True).statistics.episodes == 12


class Odd(spaces.Space):  # type: ignore[misc]
    """A space of the user's own that does not say what every space has to say."""


def test_a_space_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Faulty, "observation_space", lambda self, agent: Odd())
    with pytest.raises(
        UserCodeError, match=r"failed in spaces \(agent first\): NotImplementedError"
    ):
        make(tmp_path / "d")


@pytest.mark.parametrize("call", ["init", "spaces", "reset"])
@pytest.mark.parametrize("fault", ["exit", "typer", "bare", "value"])
def test_whatever_fails_before_the_first_step_is_told(tmp_path, call, fault):
    with pytest.raises(UserCodeError, match="failed in "):
        make(tmp_path / "d", settings={"call": call, "fault": fault})


def test_a_failure_to_close_loses_nothing(tmp_path, caplog):
    manifest = make(tmp_path / "d", settings={"call": "close", "fault": "exit"})
    assert verify(tmp_path / "d").ok
    assert manifest.statistics.episodes == 12
    assert "failed in close: SystemExit: 0" in caplog.text


def test_a_failure_to_close_hides_no_other_failure(tmp_path):
    Faulty.made = 0

    def stop(done, total, unit):
        raise KeyboardInterrupt

    settings = {"call": "close", "fault": "exit"}
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "d", settings=settings, observers=[FunctionObserver(progress=stop)])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_what_was_recorded_before_a_failure_is_kept_and_goes_on(tmp_path, threads, monkeypatch):
    """The fault lies in the third batch; after it is mended, recording continues."""
    settings = {"call": "step", "fault": "exit", "seed_of_fault": SEEDS[9]}
    done: list[int] = []
    watching = [FunctionObserver(progress=lambda episodes, total, unit: done.append(episodes))]
    with pytest.raises(UserCodeError, match=f"seed {SEEDS[9]}"):
        make(tmp_path / "d", threads, settings, observers=watching)
    assert done == [0, 4, 8]
    monkeypatch.setattr(Faulty, "_fail", lambda self, call: None)
    whole = make(tmp_path / "whole", settings=settings)
    done.clear()
    again = make(tmp_path / "d", threads, settings, resume=True, observers=watching)
    assert again.id == whole.id
    assert done == [8, 12]


def test_large_finite_values_are_recorded(tmp_path):
    made = make(tmp_path / "d", settings={"size": 1e38})
    assert verify(tmp_path / "d").ok
    seen = ExpertBuffer.open(tmp_path / "d").read("steps/obs").astype(np.float64)
    stated = made.statistics.values["steps/obs"]
    assert stated.std == pytest.approx(seen.std())
    assert (stated.min, stated.max) == (seen.min(), seen.max())
    assert np.isfinite(made.statistics.returns.std)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"name": "two\nlines"}, r"name 'two\\nlines' must be one line"),
        ({"name": " "}, "must be one line"),
        ({"description": "turned \u202e round"}, "description is "),
        ({"licence": "a\ud800b"}, "licence is "),
        ({"seed": 10**30}, "recording.seed is 1000000"),
        ({"settings": {"note": "\x1b[2J"}}, "environment.kwargs.note is "),
        (
            {"settings": {"size": 1e400}},
            "environment_kwargs.size is inf, which should be a finite number",
        ),
        (
            {"settings": {"size": float("nan")}},
            "environment_kwargs.size is nan, which should be a finite number",
        ),
        ({"settings": {"seed_of_fault": 10**25}}, "environment.kwargs.seed_of_fault is 1000000"),
    ],
)
def test_what_a_manifest_cannot_hold_is_refused_before_the_first_episode(
    tmp_path, monkeypatch, more, says
):
    monkeypatch.setattr(Faulty, "step", lambda self, actions: pytest.fail("it was played"))
    with pytest.raises(UsageError, match=says):
        make(tmp_path / "d", **more)
    assert not (tmp_path / "d").exists()


def test_seeds_beyond_63_bits_are_kept(tmp_path):
    assert make(tmp_path / "d", seed=2**63 + 1).recording.seed == 2**63 + 1


def test_a_finished_recording_is_done_already(tmp_path, caplog):
    first = make(tmp_path / "d")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "d").rglob("*")}
    assert make(tmp_path / "d", resume=True, threads=2) == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "d").rglob("*")} == before
    assert "d is complete already: nothing was done" in caplog.text


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"seed": 1}, "recording.seed"),
        ({"episodes": 13}, "recording.episodes"),
        ({"name": "other"}, "name"),
        ({"masks": ["full"], "embedding_dtype": "float32"}, "recording.settings"),
        ({"settings": {"size": 2.0}}, "environment"),
    ],
)
def test_a_finished_recording_of_other_settings_is_refused(tmp_path, more, says):
    make(tmp_path / "d")
    with pytest.raises(MismatchError, match=says):
        make(tmp_path / "d", resume=True, **more)


def test_resuming_where_nothing_is_begins(tmp_path):
    first = make(tmp_path / "d", resume=True)
    (tmp_path / "empty").mkdir()
    assert make(tmp_path / "empty", resume=True).id == first.id


def test_a_kill_between_manifest_and_clean_up_leaves_a_finished_dataset(tmp_path, monkeypatch):
    from kd_offline.datasets.storage.store import Folder

    inner = Folder.remove

    def killed(self, path):
        if path == JOURNAL:
            raise KeyboardInterrupt
        inner(self, path)

    monkeypatch.setattr(Folder, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "d")
    monkeypatch.undo()
    assert (tmp_path / "d" / JOURNAL).exists()
    assert make(tmp_path / "d", resume=True).id == make(tmp_path / "e").id
    assert not (tmp_path / "d" / JOURNAL).exists()
    assert verify(tmp_path / "d").ok


def distilled(path, **settings):
    recipe = distill_recipe(hidden=8, settings={"optimisation.epochs": 1} | settings)
    return distill(path, path.with_name("run"), recipe, overwrite=True).results[0].held_out


@pytest.mark.parametrize("size", [1e20, 1.5e38])
def test_large_values_are_learned_from_or_said_to_be_too_large(tmp_path, size):
    make(tmp_path / "d", settings={"size": size}, expert=f"python:{HERE}:silent", episodes=40)
    held_out = distilled(tmp_path / "d", **{"weights.policy": 0})
    assert all(np.isfinite(value) for value in held_out.values())
    settings = {"frames": 64, "episodes_per_batch": 8, "environment_kwargs": {"size": size}}
    with pytest.raises(UsageError, match=r"observations of up to .*e\+\d+: scale|rewards of up to"):
        train(train_recipe(NAME, settings=settings), tmp_path / "expert", score_episodes=0)
    assert not (tmp_path / "expert" / "expert.json").exists()


def test_returns_beyond_float32_are_said_to_be_too_large(tmp_path):
    make(tmp_path / "d", settings={"size": 1.5e38}, episodes=40)
    with pytest.raises(UsageError, match="of side 'first' are so large that returns exceed"):
        distilled(tmp_path / "d")


def test_a_loss_that_is_no_number_ends_a_distillation(tmp_path):
    make(tmp_path / "d", expert=f"python:{HERE}:silent", episodes=40)
    with pytest.raises(UsageError, match=r"the loss of seed 0 is (nan|inf) in epoch"):
        distilled(
            tmp_path / "d",
            **{
                "weights.policy": 0,
                "optimisation.learning_rate": 1e38,
                "optimisation.epochs": 5,
            },
        )
