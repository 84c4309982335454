"""An expert of another library as a team policy like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kd_offline.distributions.categorical import epsilon_greedy
from kd_offline.errors import MismatchError, UserCodeError
from kd_offline.experts.protocol import ValueUnits
from kd_offline.networks.arithmetic import CountedShape, Shape, ValuePart
from kd_offline.schemas.dataset import Capture, ExpertRecord
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.foreign import InputRecipe, ValueCalibration
from kd_offline.types import (
    Array,
    BoolArray,
    Float32Array,
    IntArray,
    PolicyOutput,
    SeedArray,
    TeamPolicy,
    View,
)
from kd_offline.user_code import calling, plain

_Record = TypeVar("_Record", View, PolicyOutput)


class Memory(NamedTuple):
    """What a policy remembers, and which step of its episodes comes next."""

    own: Any
    step: int


@dataclass(frozen=True, slots=True)
class ForeignExpert:
    """A policy of another library, what is known of it, and how its values are read.

    ``shapes`` is the network that each agent carries; empty where that is unknown. ``critics`` are
    the networks that say values. ``modules`` are the networks of agents that are run by PyTorch.
    """

    policy: TeamPolicy
    recipe: InputRecipe
    record: ExpertRecord
    reference: str
    shapes: tuple[CountedShape, ...] = ()
    calibration: ValueCalibration | None = None
    with_value: bool = True
    critics: tuple[ValuePart, ...] = ()
    modules: Mapping[int, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of the files and of the recipe by which they are used."""
        return self.record.digest or ""

    @property
    def missing(self) -> tuple[str, ...]:
        """What an import looked for and did not find."""
        return self.record.missing

    @property
    def embedding_width(self) -> None:
        """It is known when the policy acts."""

    @property
    def mask_name(self) -> None:
        """It sees everything."""

    @property
    def learned_sides(self) -> None:
        """It plays all sides."""

    @property
    def opponents(self) -> None:
        """It has none."""

    @property
    def team(self) -> None:
        """Its networks are not ours."""

    @property
    def value_units(self) -> ValueUnits | None:
        """What a trial may find out about its values; None where it says none."""
        if not self.record.value_of:
            return None
        raw = self.recipe.value_units != "normalised" or self.calibration is not None
        return ValueUnits(self.recipe.gamma, self.recipe.bootstrap_on_truncation, raw)

    def calibrated(self, calibration: ValueCalibration | None) -> ForeignExpert:
        """Return the expert with values ``scale * output + offset``."""
        return replace(self, calibration=calibration)

    def keep(self, memory: Any, episodes: IntArray) -> None:
        """Return None: what a policy remembers is its own affair."""
        return

    def actor_shapes(self) -> tuple[Shape, ...]:
        """Return the network that each agent carries.

        Raises
        ------
        MismatchError
            It is a policy of the user's own that does not say its cost.
        """
        if not self.shapes:
            msg = (
                f"expert {self.reference!r} does not say what a decision costs: give its policy "
                "the attributes parameters and macs (of one agent, multiply-accumulates)"
            )
            raise MismatchError(msg)
        return self.shapes

    def actor_parameters(self) -> int:
        """Return the parameters of all actors, a shared network counted once; 0: not known."""
        return self.record.parameters

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return the networks that say its values, as far as they are known."""
        return self.critics

    def start(self, seeds: SeedArray) -> Any:
        """Return the memories of fresh episodes."""
        return started(self.policy, seeds, self.reference)

    def act(self, view: View, memory: Any) -> tuple[PolicyOutput, Any]:
        """Return logits [B, N, A], embeddings, and values [B, N] as calibrated.

        An expert with Q-values acts epsilon-greedily by them: its logits are the log probabilities
        of that policy, so that greedy play is the argmax of the Q-values over legal actions.

        Raises
        ------
        UserCodeError
            The policy failed, or gives numbers that are not finite.
        MismatchError
            It gives something else than outputs of the right shapes and types.
        """
        output, memory = asked(self.policy, view, memory, self.reference)
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
    """Ask a policy twice about empty views, check what it says, and return its last output.

    Raises
    ------
    UserCodeError
        It fails, or gives numbers that are not finite.
    MismatchError
        It gives something else than outputs of the shapes and types that the environment needs.
    """
    b, n, a = 2, spec.n_agents, spec.action_count
    view = View(
        np.zeros((b, n, spec.obs_width), np.float32),
        np.zeros((b, spec.state_width), np.float32),
        np.ones((b, n, a), bool),
        np.ones((b, n), bool),
    )
    place = f"{spec.id}, {n} agents, {spec.obs_width} observations, {a} actions"
    memory = started(policy, np.arange(b, dtype=np.uint64), reference, place)
    _, memory = asked(policy, view, memory, reference, place)
    return asked(policy, view, memory, reference, place)[0]


def started(
    policy: TeamPolicy, seeds: SeedArray, reference: str, environment: str | None = None
) -> Memory:
    """Return a policy's memory of fresh episodes; raises as :meth:`ForeignExpert.act`."""
    with calling(f"expert {reference!r}", "start", environment=environment):
        return Memory(policy.start(seeds), 0)


def asked(
    policy: TeamPolicy, view: View, memory: Memory, reference: str, environment: str | None = None
) -> tuple[PolicyOutput, Memory]:
    """Return what a policy says of ``view``, checked; raises as :meth:`ForeignExpert.act`."""
    who, step = f"expert {reference!r}", memory.step
    with calling(who, "act", step=step, environment=environment):
        answer = policy.act(_own(view), memory.own)
    if not (isinstance(answer, tuple) and len(answer) == 2 and type(answer[0]) is PolicyOutput):
        got = [type(x).__name__ for x in answer[:9]] if isinstance(answer, tuple) else []
        said = f"({', '.join(got)})" if isinstance(answer, tuple) else type(answer).__name__
        msg = (
            f"{who} returned {plain(said)} from act in step {step}: return a pair of a "
            "kd_offline.types.PolicyOutput and the memory after the step"
        )
        raise MismatchError(msg)
    _check_output(answer[0], view, f"{who} gives", step, environment)
    output, own = _own(answer[0]), answer[1]
    if (mix := output.mix) is not None:

        def mixed(actions: IntArray) -> tuple[Float32Array, Float32Array]:
            with calling(who, "mix", step=step):
                value, credit = mix(actions)
            _check(value, (len(actions),), f"{who} gives q_tot", step, environment)
            _check(credit, actions.shape, f"{who} gives credit", step, environment)
            return value, credit

        output = replace(output, mix=mixed)
    return output, Memory(own, step + 1)


def _own(record: _Record) -> _Record:
    """Return a view or an output with arrays of its own: whoever made it may write to its own."""
    held = {part.name: getattr(record, part.name) for part in fields(record)}
    copies: dict[str, Any] = {k: x.copy() for k, x in held.items() if isinstance(x, np.ndarray)}
    return replace(record, **copies)


def _check_output(
    output: PolicyOutput, view: View, says: str, step: int, environment: str | None
) -> None:
    each = view.available_actions.shape  # B, N, A
    shapes: dict[str, tuple[int, ...]] = {"logits": each, "q_values": each, "value": each[:2]}
    shapes["q_tot_max"] = each[:1]
    for name in (part.name for part in fields(output) if part.name != "mix"):
        values = getattr(output, name)
        if values is None and name != "logits":
            continue
        _check(values, shapes.get(name, each[:2]), f"{says} {name}", step, environment)
        if name == "embedding" and values.ndim != len("BNH"):
            msg = f"{says} embedding of shape {values.shape}: it must have the axes [B, N, H]"
            raise MismatchError(msg)


def _check(
    values: Array, shape: tuple[int, ...], says: str, step: int, environment: str | None
) -> None:
    """Check one array; ``shape`` is that of its first axes."""
    if not isinstance(values, np.ndarray):
        got = f"as {plain(type(values).__name__)}"
    elif values.dtype != np.float32 or values.shape[: len(shape)] != shape or 0 in values.shape:
        got = f"of shape {values.shape} and type {values.dtype}"
    else:
        got = ""
    if got:
        where = f" of {environment}" if environment else ""
        msg = (
            f"{says} {got} in step {step}{where}: it must be a NumPy array of float32 and of shape "
            f"{shape}, so correct it or choose its environment"
        )
        raise MismatchError(msg)
    if not np.isfinite(values).all():
        at = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
        agent = f"agent {at[1]}, " if len(at) > 1 else ""
        msg = (
            f"{says} that are not finite ({values[at]}) in step {step} ({agent}episode {at[0]} of "
            "the batch): give finite numbers, logits raw and without a mask"
        )
        raise UserCodeError(msg)
