"""Exact cost of mixing networks, in closed form; no PyTorch is imported for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_offline.networks.arithmetic import NetworkCost

if TYPE_CHECKING:
    from kd_offline.networks.mixers import MixerShape


def mixer_cost(shape: MixerShape) -> NetworkCost:
    """Return the cost of mixing the values of a team once (QMIX, Rashid et al., 2018).

    Four hypernetworks of the state, and ``q |W1|`` with N E multiply-accumulates. The last product
    is of two vectors, so it counts as elementwise arithmetic, as do absolute values, biases and
    the activation.
    """
    n, s, e = shape.agents, shape.state, shape.embedding
    made = [
        _hypernetwork(s, shape.weights_hidden, n * e),
        _hypernetwork(s, shape.bias_hidden, e),
        _hypernetwork(s, shape.weights_hidden, e),
        _hypernetwork(s, shape.value_hidden, 1),
    ]
    absolute, added, activation, product = n * e + e, e + 1, e, 2 * e - 1
    return NetworkCost(
        sum(c.parameters for c in made),
        sum(c.macs for c in made) + n * e,
        sum(c.elementwise for c in made) + absolute + added + activation + product,
    )


def _hypernetwork(inputs: int, hidden: int | None, outputs: int) -> NetworkCost:
    if hidden is None:
        return NetworkCost((inputs + 1) * outputs, inputs * outputs, outputs)
    parameters = (inputs + 1) * hidden + (hidden + 1) * outputs
    return NetworkCost(parameters, hidden * (inputs + outputs), 2 * hidden + outputs)
