"""An expert and its networks in the form of an export say the same, step after step."""

from typing import Any

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.experts import checkpoint
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.expert import TrainedExpert
from kd_offline.experts.load import load
from kd_offline.exports.compact import compact_expert
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe
from kd_offline.students.masks import resolve
from kd_offline.types import View

SPREAD, ADVERSARY = "mpe/simple_spread_v3", "mpe/simple_adversary_v3"


def expert(name: str = SPREAD, *, mask: str | None = None, learn: Any = None, **recipe: Any) -> Any:
    """Return an expert of random weights, layer normalisations included."""
    spec = environments.load(name).spec
    seen = None if mask is None else resolve(mask, spec).static
    card = ExpertCard(
        environment=spec,
        recipe=TrainRecipe(environment=name, mask=mask, learn=learn, **recipe),
        agents=spec.agents,
        parameters={},
        mask=None if seen is None else tuple(tuple(map(bool, row)) for row in seen),
        frames=1,
        seconds=0.0,
        threads=1,
        finished=True,
    )
    team = checkpoint.build(card)
    rng = np.random.default_rng(5)
    for parameter in team.actors.parameters():
        noise = rng.normal(0, 0.3, tuple(parameter.shape)).astype(np.float32)
        parameter.data += parameter.new_tensor(noise)
    return TrainedExpert(card, "sha256:" + "0" * 64, team, name, with_value=False)


def architecture(**settings: Any) -> ExpertArchitecture:
    return ExpertArchitecture.model_validate({"trunk": (16, 8), "gru": 8, **settings})


EXPERTS = {
    "shared": {"architecture": architecture()},
    "apart": {"architecture": architecture(share=False, trunk=())},
    "without memory": {"architecture": architecture(gru=None, critic_gru=None)},
    "masked, with motion and last action": {
        "architecture": architecture(motion=True, last_action=True),
        "mask": "limited",
    },
    "value-based": {"algorithm": "qmix", "mask": "limited"},
}


def compare(team: TrainedExpert) -> None:
    """Play five random steps by both and compare all logits, or values of a value-based one."""
    spec = team.card.environment
    networks = compact_expert(team)
    rng = np.random.default_rng(0)
    memory = team.start(np.arange(4, dtype=np.uint64))
    kept = [np.zeros((4, net.memory_width), np.float32) for net in networks]
    last = None
    for _ in range(5):
        obs = rng.standard_normal((4, spec.n_agents, spec.obs_width)).astype(np.float32)
        legal = np.ones((4, spec.n_agents, spec.action_count), bool)
        view = View(obs, obs.reshape(4, -1), legal, legal[..., 0], last)
        output, memory = team.act(view, memory)
        wanted = output.logits if output.q_values is None else output.q_values
        last = np.empty((4, spec.n_agents), np.int64)
        for i, net in enumerate(networks):
            actions = spec.action_counts[i]
            last[:, i], logits, kept[i] = net.step(
                obs[:, i, net.seen], legal[:, i, :actions], kept[i]
            )
            np.testing.assert_allclose(logits, wanted[:, i, :actions], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", EXPERTS)
def test_every_kind_answers_as_it_was_trained(kind):
    compare(expert(**EXPERTS[kind]))


def test_what_a_mask_hides_is_not_there():
    team = expert(mask="limited", architecture=architecture(motion=True, last_action=True))
    seen = team.mask().sum(axis=1).tolist()
    columns = [net.trunk[0].weight.shape[1] for net in compact_expert(team)]
    assert columns == [2 * k + 5 for k in seen]


def test_a_side_that_did_not_learn_is_its_opponents():
    spec = environments.load(ADVERSARY).spec
    own = expert(ADVERSARY, learn=("adversary",), architecture=architecture())
    others = load("bundled", spec)
    team = TrainedExpert(own.card, own.digest, own.team, own.reference, False, others)
    widths = [net.width for net in compact_expert(team)]
    assert widths[0] == 8
    assert widths[1:] == [net.width for net in compact_expert(team.opponents)][1:]
    assert widths[1] != 8
