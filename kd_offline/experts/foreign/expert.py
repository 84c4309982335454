"""An expert of another library as a team policy like any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kd_offline.errors import MismatchError
from kd_offline.policies import epsilon_greedy
from kd_offline.schemas.dataset import Capture, ExpertRecord
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.foreign import InputRecipe, ValueCalibration
from kd_offline.types import BoolArray, PolicyOutput, SeedArray, TeamPolicy, View


@dataclass(frozen=True, slots=True)
class CountedShape:
    """Widths of one network whose cost was counted layer by layer."""

    inputs: int
    trunk: tuple[int, ...]
    gru: int | None
    outputs: int
    counted: tuple[int, int, int]  # parameters, multiply-accumulates, other arithmetic


@dataclass(frozen=True, slots=True)
class ForeignExpert:
    """A policy of another library, what is known of it, and how its values are read.

    ``shapes`` is the network that each agent carries; empty where that is unknown. ``critics`` are
    counts of the networks that say values, as ``CountedShape.counted``, with how often each runs in
    a step of the team. ``missing`` says in words what an import looked for and did not find.
    """

    policy: TeamPolicy
    recipe: InputRecipe
    record: ExpertRecord
    reference: str
    shapes: tuple[CountedShape, ...] = ()
    calibration: ValueCalibration | None = None
    with_value: bool = True
    critics: tuple[tuple[tuple[int, int, int], int], ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the files and of the recipe by which they are used."""
        return self.record.digest or ""

    @property
    def missing(self) -> tuple[str, ...]:
        """What an import looked for and did not find."""
        return self.record.missing

    @property
    def gives_value(self) -> bool:
        """Whether it says what a view is worth, by a critic or by mixing."""
        return bool(self.record.value_of)

    @property
    def needs_calibration(self) -> bool:
        """Whether values are given in units that nothing in the checkpoint explains."""
        return (
            self.gives_value
            and self.recipe.value_units == "normalised"
            and self.calibration is None
        )

    def start(self, seeds: SeedArray) -> Any:
        """Return the memories of fresh episodes."""
        return self.policy.start(seeds)

    def act(self, view: View, memory: Any) -> tuple[PolicyOutput, Any]:
        """Return logits [B, N, A], embeddings, and values [B, N] as calibrated.

        An expert with Q-values acts epsilon-greedily by them: its logits are the log probabilities
        of that policy, so that greedy play is the argmax of the Q-values over legal actions.
        """
        output, memory = self.policy.act(view, memory)
        logits, value = output.logits, output.value
        if output.q_values is not None:
            legal = view.available_actions
            logits = epsilon_greedy(output.q_values, legal, self.recipe.epsilon)
        if not self.with_value:
            value = None
        if value is not None and self.calibration is not None:
            value = value * self.calibration.scale + self.calibration.offset
            value = value.astype(np.float32)
        return replace(output, logits=logits, value=value), memory

    def mask(self) -> BoolArray | None:
        """Return None: it sees everything."""
        return None

    def describe(self) -> ExpertRecord:
        """Return the expert's entry of a manifest."""
        return self.record.model_copy(update={"calibration": self.calibration})


def entry(
    recipe: InputRecipe,
    digest: str,
    parameters: int,
    embedding: str,
    architecture: dict[str, Any],
    missing: Sequence[str],
) -> ExpertRecord:
    """Return a foreign expert's entry of a manifest; no path of this machine is part of it."""
    mixes = architecture.get("mixer") is not None
    valued = recipe.critic_inputs is not None or mixes
    worth = (
        "discounted sum of the team's mean reward under its greedy actions, raw units"
        if mixes
        else "discounted sum of the mean reward of the agent's side, raw units"
    )
    return ExpertRecord(
        id=0,
        kind=recipe.algorithm,
        reference=recipe.library,
        architecture=architecture,
        parameters=parameters,
        digest=digest,
        capture=Capture(output=recipe.output, embedding=embedding),
        gamma=recipe.gamma,
        bootstraps_truncation=recipe.bootstrap_on_truncation if valued else None,
        value_of=worth if valued else "",
        recipe=recipe,
        missing=tuple(missing),
    )


def probe(policy: TeamPolicy, spec: EnvironmentSpec, reference: str) -> PolicyOutput:
    """Ask a policy twice about empty views and check the shapes of what it says.

    Raises
    ------
    MismatchError
        It fails, or an output has another shape than this environment needs.
    """
    b, n, a = 2, spec.n_agents, spec.action_count
    view = View(
        np.zeros((b, n, spec.obs_width), np.float32),
        np.zeros((b, spec.state_width), np.float32),
        np.ones((b, n, a), bool),
        np.ones((b, n), bool),
    )

    def twice() -> PolicyOutput:
        _, memory = policy.act(view, policy.start(np.arange(b, dtype=np.uint64)))
        return policy.act(view, memory)[0]

    output = _explained(twice, spec, reference)
    want: dict[str, tuple[int, ...]] = {
        "logits": (b, n, a),
        "q_values": (b, n, a),
        "value": (b, n),
        "embedding": (b, n),
    }
    for name, shape in want.items():
        got = getattr(output, name)
        if got is not None and (np.shape(got)[: len(shape)] != shape or got.dtype != np.float32):
            msg = (
                f"expert {reference!r} gives {name} of shape {np.shape(got)} and type "
                f"{got.dtype} for {b} episodes of {spec.id}: it must be float32 {shape}, "
                "so correct it or choose its environment"
            )
            raise MismatchError(msg)
    return output


def _explained(
    ask: Callable[[], PolicyOutput], spec: EnvironmentSpec, reference: str
) -> PolicyOutput:
    try:
        return ask()
    except Exception as error:  # whatever a stranger's code raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = (
            f"expert {reference!r} cannot act in {spec.id} ({spec.n_agents} agents, "
            f"{spec.obs_width} observations, {spec.action_count} actions): {reason}; "
            "correct it or choose its environment"
        )
        raise MismatchError(msg) from error
