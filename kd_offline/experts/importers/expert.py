"""An expert of another library as a team policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kd_offline.distributions.categorical import epsilon_greedy
from kd_offline.errors import MismatchError, UserCodeError
from kd_offline.experts.protocol import ValueUnits
from kd_offline.networks.arithmetic import CountedShape, Shape, ValuePart
from kd_offline.rollout.collect import TAP
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
    """A policy's own memory, and the index of the next step."""

    own: Any
    step: int


@dataclass(frozen=True, slots=True)
class ForeignExpert:
    """A policy of another library with its record, costs and value calibration.

    ``shapes`` are the actors of all agents; empty where they are unknown. ``critics`` are the
    networks that estimate values. ``modules`` are the networks of agents that PyTorch runs.
    ``layer_widths`` are those of a probe; None where none was needed.
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
    layer_widths: Mapping[str, int] | None = None

    @property
    def digest(self) -> str:
        """Digest of the files and of the recipe that describes their inputs."""
        return self.record.digest or ""

    @property
    def missing(self) -> tuple[str, ...]:
        """Settings and files that an import did not find."""
        return self.record.missing

    @property
    def mask_name(self) -> None:
        """None: it sees everything."""

    @property
    def learned_sides(self) -> None:
        """None: it plays all sides."""

    @property
    def opponents(self) -> None:
        """None: it has no opponents."""

    @property
    def team(self) -> None:
        """None: its networks are not ours."""

    @property
    def value_units(self) -> ValueUnits | None:
        """Units of its values, for a calibration trial; None where it has no values."""
        if not self.record.value_of:
            return None
        raw = self.recipe.value_units != "normalised" or self.calibration is not None
        return ValueUnits(self.recipe.gamma, self.recipe.bootstrap_on_truncation, raw)

    def calibrated(self, calibration: ValueCalibration | None) -> ForeignExpert:
        """Return the expert with values ``scale * output + offset``."""
        return replace(self, calibration=calibration)

    def keep(self, memory: Any, episodes: IntArray) -> None:
        """Return None: the form of a foreign policy's memory is unknown."""
        return

    def actor_shapes(self) -> tuple[Shape, ...]:
        """Return the actor of each agent.

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
        """Return the parameters of all actors, shared networks counted once; 0: unknown."""
        return self.record.parameters

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return the networks that estimate its values, as far as they are known."""
        return self.critics

    def start(self, seeds: SeedArray) -> Any:
        """Return the memory at the start of episodes."""
        return start_checked(self.policy, seeds, self.reference)

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
        output, memory = act_checked(self.policy, view, memory, self.reference)
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
        """Return its record for a manifest."""
        return self.record.model_copy(update={"calibration": self.calibration})


def entry(
    recipe: InputRecipe,
    digest: str,
    parameters: int,
    embedding: str,
    architecture: dict[str, Any],
    missing: Sequence[str],
) -> ExpertRecord:
    """Return the record of a foreign expert for a manifest, without paths of this machine."""
    has_mixer = architecture.get("mixer") is not None
    has_values = recipe.critic_inputs is not None or has_mixer
    value_meaning = (
        "discounted sum of the team's mean reward under its greedy actions, raw units"
        if has_mixer
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
        bootstraps_truncation=recipe.bootstrap_on_truncation if has_values else None,
        value_of=value_meaning if has_values else "",
        recipe=recipe,
        missing=tuple(missing),
    )


def probe(policy: TeamPolicy, spec: EnvironmentSpec, reference: str) -> PolicyOutput:
    """Call a policy twice with empty views, check its outputs, and return the last.

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
    environment_text = f"{spec.id}, {n} agents, {spec.obs_width} observations, {a} actions"
    memory = start_checked(policy, np.arange(b, dtype=np.uint64), reference, environment_text)
    _, memory = act_checked(policy, view, memory, reference, environment_text)
    return act_checked(policy, view, memory, reference, environment_text)[0]


def layer_widths(output: PolicyOutput) -> dict[str, int]:
    """Return the widths of embedding and taps by the names of their arrays."""
    layers = {f"{TAP}{name}": values for name, values in output.taps.items()}
    if output.embedding is not None:
        layers["embedding"] = output.embedding
    return {name: int(values.shape[-1]) for name, values in layers.items()}


def start_checked(
    policy: TeamPolicy, seeds: SeedArray, reference: str, environment: str | None = None
) -> Memory:
    """Return a policy's memory at the start of episodes; raises as :meth:`ForeignExpert.act`."""
    with calling(f"expert {reference!r}", "start", environment=environment):
        return Memory(policy.start(seeds), 0)


def act_checked(
    policy: TeamPolicy, view: View, memory: Memory, reference: str, environment: str | None = None
) -> tuple[PolicyOutput, Memory]:
    """Return a policy's checked outputs for ``view``; raises as :meth:`ForeignExpert.act`."""
    code, step = f"expert {reference!r}", memory.step
    with calling(code, "act", step=step, environment=environment):
        answer = policy.act(_with_own_arrays(view), memory.own)
    if not (isinstance(answer, tuple) and len(answer) == 2 and type(answer[0]) is PolicyOutput):
        types = [type(x).__name__ for x in answer[:9]] if isinstance(answer, tuple) else []
        returned = f"({', '.join(types)})" if isinstance(answer, tuple) else type(answer).__name__
        msg = (
            f"{code} returned {plain(returned)} from act in step {step}: return a pair of a "
            "kd_offline.types.PolicyOutput and the memory after the step"
        )
        raise MismatchError(msg)
    _check_output(answer[0], view, f"{code} gives", step, environment)
    output, own = _with_own_arrays(answer[0]), answer[1]
    output = replace(output, taps={name: values.copy() for name, values in output.taps.items()})
    if (mix := output.mix) is not None:

        def mixed(actions: IntArray) -> tuple[Float32Array, Float32Array]:
            with calling(code, "mix", step=step):
                value, credit = mix(actions)
            _check(value, (len(actions),), f"{code} gives q_tot", step, environment)
            _check(credit, actions.shape, f"{code} gives credit", step, environment)
            return value, credit

        output = replace(output, mix=mixed)
    return output, Memory(own, step + 1)


def _with_own_arrays(record: _Record) -> _Record:
    """Return a view or an output with copies of its arrays, as its maker may write to them."""
    values = {field_.name: getattr(record, field_.name) for field_ in fields(record)}
    copies: dict[str, Any] = {k: x.copy() for k, x in values.items() if isinstance(x, np.ndarray)}
    return replace(record, **copies)


def _check_output(
    output: PolicyOutput, view: View, prefix: str, step: int, environment: str | None
) -> None:
    shape = view.available_actions.shape  # B, N, A
    shapes: dict[str, tuple[int, ...]] = {"logits": shape, "q_values": shape, "value": shape[:2]}
    shapes["q_tot_max"] = shape[:1]
    if not isinstance(output.taps, Mapping):
        msg = f"{prefix} taps as {plain(type(output.taps).__name__)}: it must be a mapping of names"
        raise MismatchError(msg)
    for name, values in output.taps.items():
        _check(values, shape[:2], f"{prefix} taps[{plain(str(name))}]", step, environment)
    for name in (f.name for f in fields(output) if f.name not in ("mix", "taps")):
        values = getattr(output, name)
        if values is None and name != "logits":
            continue
        _check(values, shapes.get(name, shape[:2]), f"{prefix} {name}", step, environment)
        if name == "embedding" and values.ndim != len("BNH"):
            msg = f"{prefix} embedding of shape {values.shape}: it must have the axes [B, N, H]"
            raise MismatchError(msg)


def _check(
    values: Array, shape: tuple[int, ...], prefix: str, step: int, environment: str | None
) -> None:
    """Raise unless an array is finite float32 with the first axes ``shape``."""
    if not isinstance(values, np.ndarray):
        actual = f"as {plain(type(values).__name__)}"
    elif values.dtype != np.float32 or values.shape[: len(shape)] != shape or 0 in values.shape:
        actual = f"of shape {values.shape} and type {values.dtype}"
    else:
        actual = ""
    if actual:
        environment_text = f" of {environment}" if environment else ""
        msg = (
            f"{prefix} {actual} in step {step}{environment_text}: it must be a NumPy array of "
            f"float32 and of shape {shape}, so correct it or choose its environment"
        )
        raise MismatchError(msg)
    if not np.isfinite(values).all():
        at = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
        agent = f"agent {at[1]}, " if len(at) > 1 else ""
        msg = (
            f"{prefix} that are not finite ({values[at]}) in step {step} ({agent}episode {at[0]} "
            "of the batch): give finite numbers, logits raw and without a mask"
        )
        raise UserCodeError(msg)
