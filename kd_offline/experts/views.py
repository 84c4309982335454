"""Views of actors: convert ``architecture.view`` into widths and inputs.

==============  =====================================================  ===========================
view            features of agent ``i``                                read through a block
==============  =====================================================  ===========================
local           its observation                                        none, or with the block
                                                                       ``fusion`` the observation
full            what it would see with nothing hidden                  none
state           the state of the environment                           none
personalised    its observation                                        the state
==============  =====================================================  ===========================

To the features are appended their changes, the agent's last action and its one-hot id within the
agents that share its network. A block maps a source by weights that all of these generate, see
:mod:`kd_offline.networks.fusion`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kd_offline.errors import MismatchError
from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.fusion_shape import FusionShape
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.schemas.layers import LayerWidths
from kd_offline.types import View


class Seen(NamedTuple):
    """All inputs that a team may have, in batches; the view of the actors selects some of them."""

    obs: Tensor  # [..., N, O]
    state: Tensor  # [..., S]
    full: Tensor | None = None  # [..., N, F]

    @classmethod
    def of(cls, view: View, device: torch.device | None = None) -> Seen:
        """Return the arrays of a view as tensors on a device; None: on the processor."""
        full = None if view.obs_full is None else torch.from_numpy(view.obs_full).to(device)
        obs, state = (torch.from_numpy(values).to(device) for values in (view.obs, view.state))
        return cls(obs, state, full)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Seen:
        """Return a copy in which ``change`` is applied to every array."""
        full = None if self.full is None else change(self.full)
        return Seen(change(self.obs), change(self.state), full)

    def rows(self, view: str, rows: Tensor, width: int) -> Tensor:
        """Return the first ``width`` features of single agents, [R, width], a copy.

        ``rows``: int64 [R], indices into the agents of all steps and episodes.
        """
        if view == "state":
            return self.state.flatten(0, -2)[rows // self.obs.shape[-2]]
        return self.features(view).flatten(0, -2)[rows, :width]

    def features(self, view: str) -> Tensor:
        """Return the features of all agents, float [..., N, W], padded to the widest.

        Raises
        ------
        MismatchError
            Full observations are needed, and there are none.
        """
        if view == "state":
            return self.state.unsqueeze(-2).expand(*self.obs.shape[:-1], self.state.shape[-1])
        if view != "full":
            return self.obs
        if self.full is None:
            msg = (
                "actors of the view full are given no full observations: let the policy say "
                "needs_full, and choose an environment that gives them"
            )
            raise MismatchError(msg)
        return self.full


def state_width(spec: EnvironmentSpec) -> int:
    """Return the width of the state, S."""
    return sum(spec.obs_widths) if spec.state_is_obs else spec.state_width


def feature_widths(spec: EnvironmentSpec, view: str) -> tuple[int, ...]:
    """Return the number of features of each agent.

    Raises
    ------
    MismatchError
        The environment describes no full observations, and the view is ``full``.
    """
    if view == "state":
        return (state_width(spec),) * spec.n_agents
    if view != "full":
        return spec.obs_widths
    if spec.full is None:
        msg = (
            f"environment {spec.id!r} gives no full observations: choose the view state or local, "
            "or an environment that gives them"
        )
        raise MismatchError(msg)
    return spec.full.widths


def actor_shape(
    spec: EnvironmentSpec, architecture: ExpertArchitecture, agents: tuple[int, ...]
) -> NetworkShape | FusionShape:
    """Return the network that ``agents`` share, in numbers."""
    first = agents[0]
    trunk, gru = architecture.trunk, architecture.gru
    if architecture.widths is not None:
        width = architecture.widths[first]
        if isinstance(width, LayerWidths):
            trunk, gru = width.trunk, width.gru
        else:
            trunk, gru = (width,) * len(trunk), gru and width
    features = feature_widths(spec, architecture.view)[first]
    inputs = features * (1 + architecture.motion) + (len(agents) if len(agents) > 1 else 0)
    inputs += spec.action_counts[first] if architecture.last_action else 0
    outputs = spec.action_counts[first]
    if architecture.block == "none":
        return NetworkShape(inputs, trunk, gru, outputs)
    own = architecture.view == "local"
    joined = (gru or (inputs, *trunk)[-1]) if architecture.block == "hypernetwork" else None
    return FusionShape(
        source=features if own else state_width(spec),
        local=inputs,
        hyper=architecture.block_hidden,
        width=architecture.block_width,
        dense=trunk,
        recurrent=gru,
        outputs=outputs,
        joined=joined,
        own=own,
        readers=1 if own else len(agents),
        normalised=architecture.normalise_state and not own,
    )
