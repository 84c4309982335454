"""What an expert carries beside its actors to say values: critics of its own kind, or a mixer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_offline.evaluation.cost import CriticPart
from kd_offline.networks.arithmetic import NetworkCost, network_cost
from kd_offline.networks.mixing_arithmetic import mixer_cost

if TYPE_CHECKING:
    from kd_offline.experts.load import AnyExpert


def critic_parts(expert: AnyExpert) -> tuple[CriticPart, ...]:
    """Return the networks that say the expert's values, and how often each runs in a team step.

    Empty where there are none, or where an expert of another library does not say.
    """
    from kd_offline.experts.foreign.expert import ForeignExpert

    if isinstance(expert, ForeignExpert):
        return tuple(CriticPart(NetworkCost(*counted), calls) for counted, calls in expert.critics)
    return _ours(expert.model)


def _ours(model: object) -> tuple[CriticPart, ...]:
    """Return the critics of a team that has them, once for a side or for an agent, or its mixer."""
    from kd_offline.experts.team import ActorCritic
    from kd_offline.networks.mixers import QMixer
    from kd_offline.networks.recurrent import RecurrentNetwork

    if isinstance(model, ActorCritic):
        calls = [1] * len(model.critics) if model.central else [len(g.agents) for g in model.groups]
        return tuple(
            CriticPart(network_cost(critic.shape), times)
            for critic, times in zip(model.critics, calls, strict=True)
            if isinstance(critic, RecurrentNetwork)
        )
    mixer = getattr(model, "mixer", None)
    return (CriticPart(mixer_cost(mixer.shape)),) if isinstance(mixer, QMixer) else ()
