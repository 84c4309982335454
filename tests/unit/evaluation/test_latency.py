"""Timing: interleaving, percentiles, every engine; nothing depends on how fast a machine is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.errors import MissingExtraError, UnknownNameError, UsageError
from kd_offline.evaluation import engines, latency
from kd_offline.evaluation.calibrate import student, target_of
from kd_offline.evaluation.engines import (
    ENGINES,
    EngineSettings,
    LatencyTarget,
    exported_step,
    sampler,
    timed,
)
from kd_offline.evaluation.latency import NOT_ASKED, expert_targets
from kd_offline.evaluation.timing import Plan, histogram, interleaved
from kd_offline.experts.load import load as load_expert
from kd_offline.exports.compact import compact
from kd_offline.exports.network import AgentNetwork
from kd_offline.hardware.profiles import load as load_profile
from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.recurrent import RecurrentNetwork
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.students.policy import StudentPolicy, build
from kd_offline.testing.factories import environment_spec
from kd_offline.tracking.base import FunctionObserver


def recorder(log, name, nanoseconds=5):
    def sample(count):
        log.append((name, count))
        return np.full(count, nanoseconds, np.int64)

    return sample


def test_engines_take_turns_in_a_new_order_each_round():
    log: list[Any] = []
    plan = Plan(("torch",), rounds=40, steps=10)
    names = ("a", "b", "c")
    found = interleaved({name: recorder(log, name) for name in names}, plan)
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys(names, 400)
    # every turn is a warm-up that is not counted and then the steps that are
    assert [count for _, count in log] == [2, 10] * 120
    turns = ["".join(name for name, _ in log[6 * k : 6 * k + 6 : 2]) for k in range(40)]
    assert all(sorted(turn) == list(names) for turn in turns)
    assert len(set(turns)) == 6
    again: list[Any] = []
    interleaved({name: recorder(again, name) for name in names}, plan)
    assert again == log


def test_progress_is_told_after_every_round():
    told = []
    observer = FunctionObserver(progress=lambda *said: told.append(said))
    interleaved({"a": recorder([], "a")}, Plan(rounds=3, steps=1), observer)
    assert [said[:2] for said in told] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_every_step_is_timed_on_its_own(monkeypatch):
    clock = iter([0, 7, 100, 103, 200, 211])
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(clock))
    seen: list[int] = []
    assert timed(seen.append)(3).tolist() == [7, 3, 11]
    assert seen == [0, 1, 2]


def test_the_histogram_by_hand():
    # 1 us three times, 10 us once: 20 bins apart
    found = histogram(np.array([1000, 1000, 1050, 10_000]))
    assert found.counts == (3, *[0] * 19, 1)
    assert len(found.edges_us) == 22
    assert found.edges_us[0] == pytest.approx(1.0)
    assert found.edges_us[20] == pytest.approx(10.0)


@pytest.mark.parametrize(
    "bad", [{"rounds": 0}, {"steps": 0}, {"batches": (0,)}, {"batches": ()}, {"engines": ()}]
)
def test_a_plan_that_measures_nothing_is_refused(bad):
    with pytest.raises(UsageError, match="1 or more of everything"):
        Plan(**bad)


def test_an_unknown_engine_is_refused():
    with pytest.raises(UnknownNameError, match="c-ctypes, numpy"):
        Plan(engines=("fortran",))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_engine_steps_a_student(name, batch, tmp_path):
    times = sampler(name, target_of(student(8)), EngineSettings(batch, tmp_path))(20)
    assert times.shape == (20,)
    assert (times > 0).all()


@pytest.mark.parametrize(("kind", "depth"), [("gru", 2), ("gru", 0), ("mlp", 1)])
@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("motion", [False, True])
def test_the_torch_step_decides_as_the_exported_network(kind, depth, drawn, motion):
    spec = environment_spec((6, 4), (5, 3))
    seen = np.array([[1, 0, 1, 1, 0, 1], [1, 1, 0, 1, 0, 0]], bool)
    card = StudentCard(
        environment=spec,
        architecture=StudentArchitecture(kind=kind, depth=depth),
        widths=(8, 3),
        mask="limited",
        mask_features=None if drawn else seen.tolist(),
        random_k=2 if drawn else None,
        mask_as_input=drawn,
        motion=motion,
        last_action=motion,
        method="kd-marl",
        dataset="sha256:" + "0" * 64,
        seeds=(0,),
    )
    policy = StudentPolicy(card, 0, build(card, np.random.default_rng(0)))
    rng = np.random.default_rng(1)
    for network in compact(policy):
        step, memory = exported_step(network, 4)
        kept = memory.numpy()
        for _ in range(5):
            obs = rng.standard_normal((4, network.inputs)).astype(np.float32)
            legal = np.ones((4, network.actions), bool)
            legal[:, 0] = False
            action, memory = step(torch.from_numpy(obs), torch.from_numpy(legal), memory)
            wanted, _, kept = network.step(obs, legal, kept)
            np.testing.assert_array_equal(action.numpy(), wanted)
            np.testing.assert_allclose(memory.numpy(), kept, atol=1e-5)


class Rows(RecurrentNetwork):
    """Takes rows, as the modules of other libraries do, and notes whether gradients are on."""

    def forward(self, x, memory, lengths=None):
        self.gradients = torch.is_grad_enabled()
        out, embedding, memory = super().forward(x.unsqueeze(0), memory)
        return out[0], embedding[0], memory


def foreign(outputs=4):
    actor = Rows(NetworkShape(6, (8,), 8, outputs), np.random.default_rng(0))
    return LatencyTarget("expert", ("a",), 6, outputs, 100, 400, actor=actor)


def test_modules_of_another_library_step_in_torch_alone(tmp_path):
    assert len(sampler("torch", foreign(), EngineSettings(2, tmp_path))(5)) == 5
    with pytest.raises(Exception, match="only torch runs it"):
        sampler("numpy", foreign(), EngineSettings(1, tmp_path))


def test_gradients_are_off(tmp_path):
    subject = foreign()
    sampler("torch", subject, EngineSettings(1, tmp_path))(3)
    assert subject.actor.gradients is False


def test_an_expert_is_timed_in_every_engine_by_the_code_of_the_students(tmp_path):
    spec = environments.load("mpe/simple_spread_v3").spec
    who = expert_targets(load_expert("bundled", spec, with_value=False), spec)
    assert [(one.who, one.agents) for one in who] == [("expert", spec.agents)]
    assert who[0].macs == 203_264 // 2 - 3 * 128  # the columns of the agent's id are a bias
    made, lacking = latency._samplers(who, Plan(tuple(ENGINES)), tmp_path)
    assert [key[2] for key in made] == list(ENGINES)
    assert lacking == []
    assert all((one(3) > 0).all() for _, one in made.values())


def test_an_expert_and_a_student_of_one_agent_are_compiled_apart(tmp_path):
    subjects = [target_of(student(8)), replace(target_of(student(8)), who="expert")]
    made, lacking = latency._samplers(subjects, Plan(("c",), (1,), 1, 1, 0), tmp_path)
    assert len(made) == 2
    assert not lacking
    assert len(list(tmp_path.rglob("libstudents.so"))) == 2


def test_what_cannot_run_is_listed_with_the_reason(tmp_path, monkeypatch):
    def absent(subject: LatencyTarget, bench: EngineSettings):
        raise MissingExtraError(library="onnxruntime", extra="onnx", purpose="running an export")

    monkeypatch.setitem(ENGINES, "onnx", absent)
    who = [foreign(), target_of(student(8))]
    plan = Plan(("torch", "onnx"), batches=(1, 2))
    made, lacking = latency._samplers(who, plan, tmp_path)
    assert {(key[0], key[2], key[3]) for key in made} == {
        ("expert", "torch", 1),
        ("expert", "torch", 2),
        ("student", "torch", 1),
        ("student", "torch", 2),
    }
    assert [(one.engine, one.who) for one in lacking] == [("onnx", "expert"), ("onnx", "student")]
    assert "kd-offline[onnx]" in lacking[0].reason


def test_a_missing_compiler_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="install the Debian package gcc"):
        sampler("c", target_of(student(8)), EngineSettings(1, tmp_path))
    assert engines.compiler() is None


def test_rows_state_percentiles_and_predictions():
    subject = target_of(student(8))
    times = np.arange(1, 101, dtype=np.int64) * 1000
    devices = [load_profile("stm32f4"), load_profile("x86-core")]
    row = latency._row(subject, ("student", "w8", "c", 1), times, NOT_ASKED, devices)
    assert (row.p50_us, row.p95_us, row.p99_us) == pytest.approx((50.5, 95.05, 99.01))
    assert (row.min_us, row.max_us, row.mean_us, row.samples) == (1, 100, 50.5, 100)
    assert np.sum(row.histogram.counts) == 100
    assert [one.basis for one in row.predictions] == ["instruction count", "calibrated"]
    # a device that was not calibrated with an engine is predicted in C alone, and for single rows
    row = latency._row(subject, ("student", "w8", "torch", 1), times, NOT_ASKED, devices)
    assert [one.profile for one in row.predictions] == ["x86-core"]
    row = latency._row(subject, ("student", "w8", "c", 64), times, NOT_ASKED, devices)
    assert row.predictions == ()


def test_networks_are_compared_within_an_engine_and_engines_by_one_network():
    def row(who, engine, agents, batch, p50):
        network = target_of(student(8))
        key = (who, agents[0], engine, batch)
        subject = LatencyTarget(who, agents, 1, 1, 1, 4, network=network.network)
        return latency._row(subject, key, np.full(3, p50, np.int64), NOT_ASKED, [])

    rows = [
        row("expert", "torch", ("a", "b"), 1, 8000),
        row("expert", "c", ("a", "b"), 1, 4000),
        row("student", "torch", ("b",), 1, 4000),
        row("student", "c", ("b",), 1, 500),
        row("student", "c", ("b",), 2, 500),
        row("student", "numpy", ("c",), 1, 500),
    ]
    alike = latency._with_speedups(rows, alike=True)
    near = pytest.approx
    assert [one.faster for one in alike] == [None, None, near(2), near(8), None, None]
    assert [one.engine_faster for one in alike] == [None, near(2), None, near(8), None, None]
    other = latency._with_speedups(rows, alike=False)
    assert [one.faster for one in other] == [None] * 6


def test_the_students_of_a_calibration_are_whole():
    network = student(16)
    assert isinstance(network, AgentNetwork)
    assert network.macs == 32 * 16 + 16 * 16 + 6 * 16 * 16 + 16 * 8
