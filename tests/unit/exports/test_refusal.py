"""What every engine does with numbers that cannot be computed with: the same, to the bit."""

import shutil

import numpy as np
import pytest

from kd_offline.exports import c_library, c_source, onnx_graph, parity_check, tensors
from kd_offline.exports.c_library import BuildError
from kd_offline.exports.engines import ENGINES, numpy_steps
from kd_offline.exports.export import export
from kd_offline.exports.parity_check import ParityError
from kd_offline.exports.team import executed
from kd_offline.exports.vectors import vectors
from kd_offline.schemas.export import REFUSAL, WAITING
from tests.unit.exports.conftest import ARM, KINDS, RICH, exported, needs

DRAWN = next(kind for kind in KINDS if kind.mask == "drawn" and kind.motion)
SOME = [(RICH, False), (RICH, True), (DRAWN, False), (KINDS[1], True), (KINDS[4], False)]
LARGE = float(np.finfo(np.float32).max)
UNUSABLE = [float("nan"), float("inf"), -float("inf"), LARGE, -LARGE]


@pytest.fixture(
    scope="module", params=SOME, ids=lambda given: f"{given[0]}-{'int8' if given[1] else 'fp32'}"
)
def engines(request, tmp_path_factory, episodes):
    """The contracts of a kind, and the steps of every engine."""
    tmp_path = tmp_path_factory.mktemp("engines")
    kind, int8 = request.param
    _, networks, agents, numpy_team = exported(kind, int8=int8)
    few = episodes.first(20)
    recorded = vectors(numpy_team, parity_check.replay(numpy_team, few), few)
    for name in ("torch", "onnx", "c"):
        (tmp_path / name).mkdir()
    tensors.write(tmp_path / "torch", networks, agents, {})
    for network, agent in zip(networks, agents, strict=True):
        onnx_graph.write(tmp_path / "onnx" / f"{agent.symbol}.onnx", network, {})
    c_source.write(tmp_path / "c", networks, agents, recorded, parity_check.TOLERANCE, "a test")
    opened = {name: open_steps(tmp_path, agents) for name, (_, open_steps) in ENGINES.items()}
    return agents, opened


def bits(values):
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


@needs("cc", "make")
def test_every_engine_refuses_them_alike(engines):
    agents, opened = engines
    rng = np.random.default_rng(0)
    for i, agent in enumerate(agents):
        obs = rng.normal(size=(4, agent.inputs)).astype(np.float32)
        legal = np.array(
            [[True] * 5, [False, True] * 2 + [True], [False] * 4 + [True], [False] * 5]
        )
        legal = np.ascontiguousarray(legal[:, -len(agent.actions) :])
        memory = rng.uniform(0.1, 0.9, (4, agent.memory_width)).astype(np.float32)
        first = legal.argmax(axis=1)
        for value in UNUSABLE:
            for column in range(agent.inputs):
                given = obs.copy()
                given[:, column] = value
                for name, steps in opened.items():
                    action, logits, after = steps[i](given, legal, memory.copy())
                    assert action.tolist() == first.tolist(), name
                    assert (bits(logits) == bits(np.float32(np.nan))).all(), name
                    assert (bits(after) == bits(executed(agent, memory, first))).all(), name


@needs("cc", "make")
def test_a_step_that_is_refused_is_as_if_it_had_not_been(engines):
    """The memory goes on from the step before, but for the action that was returned."""
    agents, opened = engines
    rng = np.random.default_rng(1)
    for i, agent in enumerate(agents):
        obs = rng.normal(size=(3, 2, agent.inputs)).astype(np.float32)
        legal = np.ones((2, len(agent.actions)), bool)
        for name, steps in opened.items():
            _, _, memory = steps[i](obs[0], legal, np.zeros((2, agent.memory_width), np.float32))
            bad = np.full_like(obs[1], np.nan)
            action, said, kept = steps[i](bad, legal, memory.copy())
            if agent.inputs:
                assert np.isnan(said).all(), name
                memory = executed(agent, memory, action)
                assert (bits(kept) == bits(memory)).all(), name
            assert np.isfinite(steps[i](obs[2], legal, kept)[1]).all(), name


@needs("cc", "make")
def test_an_unusable_memory_is_refused_until_it_is_reset(engines):
    agents, opened = engines
    for i, agent in enumerate(agents):
        obs, legal = np.ones((1, agent.inputs), np.float32), np.ones((1, len(agent.actions)), bool)
        for name, steps in opened.items():
            memory = np.zeros((1, agent.memory_width), np.float32)
            memory[0, 0] = np.inf
            for _ in range(2):
                action, logits, memory = steps[i](obs, legal, memory)
                assert action.tolist() == [0]
                assert np.isnan(logits).all(), name
                if not {"gru", "previous"} & set(agent.memory) and "last_action" in agent.memory:
                    break  # the returned action has taken its place


@needs("cc", "make")
def test_without_a_legal_action_the_first_one_is_returned_and_the_memory_goes_on(engines):
    agents, opened = engines
    for i, agent in enumerate(agents):
        obs = np.ones((1, agent.inputs), np.float32)
        memory = np.zeros((1, agent.memory_width), np.float32)
        every = np.ones((1, len(agent.actions)), bool)
        for name, steps in opened.items():
            action, logits, after = steps[i](obs, ~every, memory.copy())
            _, as_usual, then = steps[i](obs, every, memory.copy())
            assert action.tolist() == [0], name
            np.testing.assert_array_equal(logits, as_usual)
            np.testing.assert_array_equal(after, executed(agent, then, np.array([0])))


def test_numbers_within_the_bounds_are_computed_with():
    _, networks, agents, _ = exported(RICH)
    obs = np.zeros((1, agents[0].inputs), np.float32)
    obs[0, 0] = 1e17
    memory = np.zeros((1, agents[0].memory_width), np.float32)
    legal = np.ones((1, len(agents[0].actions)), bool)
    assert np.isfinite(networks[0].step(obs, legal, memory)[1]).all()


def test_the_gate_refuses_an_engine_that_acts_upon_them():
    _, networks, agents, _ = exported(RICH)
    parity_check.require_refusals("numpy", agents, numpy_steps(networks))

    def careless(network):
        def step(obs, legal, memory):
            return network.step(np.nan_to_num(obs), legal, np.nan_to_num(memory))

        return step

    def late(network):
        def step(obs, legal, memory):
            action, logits, after = network.step(obs, legal, memory)
            bad = np.isnan(logits).any(axis=1, keepdims=True)
            return action, logits, np.where(bad, np.float32(0), after)

        return step

    for wrong in (careless, late):
        with pytest.raises(ParityError, match="acts upon numbers that are NaN"):
            parity_check.require_refusals("c", agents, [wrong(network) for network in networks])


def test_the_gate_refuses_an_engine_that_decides_where_nothing_is_legal():
    _, networks, agents, _ = exported(RICH)

    def last(network):
        def step(obs, legal, memory):
            action, logits, after = network.step(obs, legal, memory)
            return np.where(legal.any(axis=1), action, 1), logits, after

        return step

    with pytest.raises(ParityError, match="does not return action 0 where none is legal"):
        parity_check.require_refusals("c", agents, [last(network) for network in networks])


def test_the_gate_allows_rows_of_a_batch_to_round_differently():
    _, networks, agents, _ = exported(RICH)

    def uneven(network):
        def step(obs, legal, memory):
            action, logits, after = network.step(obs, legal, memory)
            logits[1:] = np.nextafter(logits[1:], np.float32(np.inf))
            return action, logits, after

        return step

    parity_check.require_refusals("c", agents, [uneven(network) for network in networks])


def test_an_export_states_the_contract(run):
    manifest = export(run.path, to="torch")
    assert (manifest.refusal, manifest.waiting) == (REFUSAL, WAITING)


def test_the_header_states_the_contract(tmp_path, episodes):
    _, networks, agents, numpy_team = exported(RICH)
    few = episodes.first(20)
    recorded = vectors(numpy_team, parity_check.replay(numpy_team, few), few)
    c_source.write(tmp_path, networks, agents, recorded, parity_check.TOLERANCE, "a test")
    text = " ".join((tmp_path / "kd_agent_0.h").read_text().replace(" *", " ").split())
    assert " ".join(REFUSAL.split()) in text
    assert WAITING in text


@pytest.fixture
def c_folder(tmp_path, episodes):
    _, networks, agents, numpy_team = exported(RICH)
    few = episodes.first(20)
    recorded = vectors(numpy_team, parity_check.replay(numpy_team, few), few)
    c_source.write(
        tmp_path, networks[:1], agents[:1], recorded[:1], parity_check.TOLERANCE, "a test"
    )
    return tmp_path


@needs("cc", "make")
def test_a_compiler_that_forgets_nan_is_refused(c_folder):
    with pytest.raises(BuildError, match="forget NaN"):
        c_library.make(c_folder, "shared", c_folder / "b", CFLAGS="-O1 -ffast-math")


@needs("cc", "make")
def test_the_self_test_finds_a_step_that_accepts_them(c_folder):
    kernels = c_folder / "kernels.h"
    text = kernels.read_text()
    assert "if (!(values[i] >= -KD_LARGEST" in text
    kernels.write_text(
        text.replace("if (!(values[i] >= -KD_LARGEST", "if (0 && !(values[i] >= -KD_LARGEST")
    )
    with pytest.raises(BuildError, match=r"[1-9]\d* of \d+ steps wrong"):
        c_library.make(c_folder, "test", c_folder / "b", CFLAGS="-O0")


@needs(*ARM)
def test_an_emulated_microcontroller_refuses_them_too(c_folder):
    said = c_library.make(c_folder, "emulate", c_folder / "b", CORE="cortex-m4")
    assert "failures 0\n" in said
    shutil.rmtree(c_folder / "b")
    kernels = c_folder / "kernels.h"
    kernels.write_text(
        kernels.read_text().replace("#define KD_LARGEST 1e18f", "#define KD_LARGEST 3.4e38f")
    )
    with pytest.raises(BuildError):
        c_library.make(c_folder, "emulate", c_folder / "b", CORE="cortex-m4")


def test_the_last_bits_of_rows_are_no_reason_to_refuse_an_engine():
    """Matrix products may round the rows of a batch differently."""
    _, networks, agents, _ = exported(RICH)

    def rounding(network):
        def step(obs, legal, memory):
            action, logits, after = network.step(obs, legal, memory)
            return (
                action,
                logits * (1 + 1e-6 * np.arange(len(obs), dtype=np.float32))[:, None],
                after,
            )

        return step

    parity_check.require_refusals("torch", agents, [rounding(network) for network in networks])
