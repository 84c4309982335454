"""Families whose inner layers have names: what they compute, and how it reaches the loss terms."""

import numpy as np
import pytest
import torch

from kd_offline.distillation.parallel_agents import parallel_agents
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import UsageError
from kd_offline.exports.c_source import interleaved, static_bytes
from kd_offline.exports.compact import compact
from kd_offline.networks.predicting import PredictingNetwork
from kd_offline.networks.predicting_shape import PredictingShape
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.students.cost_bounds import card_shape
from kd_offline.students.families import require_offer, settings_of
from kd_offline.students.networks import StudentInputs, StudentTeam
from kd_offline.students.policy import StudentPolicy, build
from kd_offline.testing.factories import environment_spec

SPEC = environment_spec((6, 4), (5, 3))


def team(family, seed=0, **settings):
    architecture = StudentArchitecture(family=family, **settings)
    rng = np.random.default_rng(seed)
    return StudentTeam(SPEC, architecture, (5, 7), rng, StudentInputs(last_action=True))


def test_the_prediction_of_ptde_is_made_of_the_memory_and_joined_to_it():
    network = PredictingNetwork(PredictingShape(3, (), 2, 4, 5, 2), np.random.default_rng(0))
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    found = network.packed(x, [1, 1], network.start(1)[0])
    assert network.body.gru is not None
    h, _ = network.body.gru(x.unsqueeze(1))
    layer = torch.relu(network.body.head(h[:, 0]))
    layer = (layer - layer.mean(-1, keepdim=True)) / layer.std(-1, keepdim=True, correction=0)
    z = layer @ network.z.weight.T + network.z.bias
    torch.testing.assert_close(found.taps["z"], z, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.memory, torch.cat([h[:, 0], found.taps["z"]], -1))
    said = found.embedding @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(found.outputs, said)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("family", ["fusion", "ptde"])
def test_the_bytes_of_exported_c_are_those_that_are_written(family, depth):
    card = StudentCard(
        environment=SPEC,
        architecture=settings_of(StudentArchitecture(family=family, depth=depth)),
        widths=(5, 7),
        mask="full",
        mask_features=((True,) * 6, (True,) * 4 + (False,) * 2),
        mask_as_input=False,
        motion=True,
        last_action=True,
        method="kl",
        dataset="sha256:" + "0" * 64,
        seeds=(0,),
    )
    for i, network in enumerate(
        compact(StudentPolicy(card, 0, build(card, np.random.default_rng(0))))
    ):
        memory = card_shape(card, i, card.widths[i]).memory()
        assert memory is not None
        assert memory.ram == static_bytes(network)
        padded = (
            interleaved(m.weight).size + len(m.bias) + -len(m.bias) % 8
            for m in network.matrices.values()
        )
        scaling = len(network.seen) * 3  # centre, scale, and that of the change
        assert memory.flash == 4 * (sum(padded) + scaling)


def test_what_was_predicted_before_is_no_input_of_the_next_step():
    network = PredictingNetwork(PredictingShape(3, (4,), 2, 4, 5, 2), np.random.default_rng(0))
    x, memory = torch.ones(1, 3), torch.ones(1, 7)
    other = memory.clone()
    other[:, 2:] = 9.0
    assert torch.equal(
        network.packed(x, [1], memory).outputs, network.packed(x, [1], other).outputs
    )


@pytest.mark.parametrize(("family", "taps"), [("fusion", ("s_hat", "feature")), ("ptde", ("z",))])
def test_a_loss_on_a_tap_reaches_the_weights_before_it_and_no_others(family, taps):
    students = team(family)
    obs = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(1))
    last = torch.zeros(4, 2, 5)
    for name in taps:
        students.zero_grad()
        with parallel_agents(students, 2) as passes:
            found = passes.forward(Batch(obs, last))
            assert set(found.taps) == set(taps)
            widths = [shape.taps[name] for shape in students.shapes]
            assert [own.shape[-1] for own in found.taps[name]] == widths
            passes.backward(sum(own.square().sum() for own in found.taps[name]))
        for network in students.networks:
            changed = {
                n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()
            }
            assert changed
            assert not any(n.startswith(("head", "body.head")) for n in changed) or family == "ptde"
            assert not any(n.startswith("head") for n in changed)


class Batch(tuple):
    """Four episodes of a step each, as a packed batch."""

    def __new__(cls, obs, last):
        from kd_offline.distillation.targets import Targets

        return super().__new__(cls, (Targets(obs, last, *[obs] * 3), [len(obs)]))


@pytest.mark.parametrize("family", ["fusion", "ptde"])
def test_unit_gates_are_declined_in_one_sentence(family):
    with pytest.raises(UsageError, match=r"have no unit gates: .*, so allocate by worth"):
        require_offer(StudentArchitecture(family=family), "gates")


@pytest.mark.parametrize(("method", "family"), [("ddn-external", "fusion"), ("ptde", "ptde")])
def test_a_method_of_a_teacher_that_sees_more_brings_its_family(method, family):
    assert distill_recipe(method=method).student.family == family
    assert distill_recipe(method=method, settings={"student.family": "gru"}).student.family == "gru"
