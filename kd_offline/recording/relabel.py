"""Run the recorded experts again: their outputs on stored observations must be the stored ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kd_offline import distributions
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.distributions.base import Played
from kd_offline.errors import MismatchError, MissingArrayError, Remedy, UsageError
from kd_offline.experts.importers.load import prefix_of
from kd_offline.experts.load import find, load
from kd_offline.networks.threads import computing_with
from kd_offline.recording.comparison import Comparison
from kd_offline.recording.episodes import Part, choose, opened, parts
from kd_offline.rollout.collect import TAP
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.replay import ExpertCheck, PolicyGap, RelabelReport
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.types import Array, BoolArray, IntArray, PolicyOutput, View, needs_full

if TYPE_CHECKING:
    from kd_offline.experts.protocol import Expert

# Networks round differently from one batch size or processor to another, and hidden states carry
# that along; float16 embeddings are exact to about 5e-4 of their size.
TOLERANCE = 1e-3
_OUTPUTS = ("logits", "q_values", "value", "q_tot_max", "q_tot", "mixer_credit", "embedding")
_OF_VALUE = ("value", "q_tot_max", "q_tot", "mixer_credit")
_OF_END = ("value", "q_tot_max")


@dataclass(slots=True)
class _Divergences:
    """Running KL divergence over agents and steps."""

    actions: type[Played]
    total: float = 0.0
    largest: float = 0.0
    count: int = 0

    def add(self, stored: Array, recomputed: Array, legal: BoolArray, counts: BoolArray) -> None:
        stored_policy, recomputed_policy = (
            self.actions(logits, legal) for logits in (stored, recomputed)
        )
        kl = np.maximum(stored_policy.kl(recomputed_policy), 0.0)[counts]
        self.total += float(kl.sum())
        self.largest = max(self.largest, float(kl.max(initial=0.0)))
        self.count += kl.size

    def report(self) -> PolicyGap | None:
        if not self.count:
            return None
        return PolicyGap(mean_kl=self.total / self.count, max_kl=self.largest)


@dataclass(slots=True)
class _Tally:
    """Running results over all experts."""

    comparison: Comparison
    policy: _Divergences
    done: int = 0
    steps: int = 0


@computing_with(None)
def relabel(
    dataset: ExpertBuffer | str | Path,
    episodes: int,
    *,
    experts: Sequence[str | Path] = (),
    expert_recipe: str | Path | None = None,
    opponents: Sequence[str] = (),
    seed: int = 0,
    observers: Sequence[Observer] = (),
) -> RelabelReport:
    """Run the recorded experts over stored observations and compare their outputs.

    Hidden states are computed from the first step on, from the stored observations and the stored
    last actions, as during the recording.

    Parameters
    ----------
    dataset
        An open dataset or its address.
    episodes
        Number of episodes, drawn with ``seed``; all of them where there are fewer.
    experts
        Folders of experts, or ``LIBRARY:PLACE`` as for recording. Bundled ones are recognised by
        the digest of their weights.
    expert_recipe
        The TOML file that the recording of an expert of another library was given.
    opponents
        Experts that the file of an expert may name as its opponents, beside bundled ones.
    observers
        They receive the number of finished episodes.

    Raises
    ------
    MissingArrayError
        The dataset holds no output of an expert, or not the full observations that it acts by.
    UsageError
        A recorded expert is neither bundled nor given.
    CheckpointError, MismatchError
        A given expert cannot be used here, or has embeddings of another width.
    """
    buffer = opened(dataset)
    if not any(buffer.has(f"steps/{name}") for name in _OUTPUTS):
        msg = (
            f"the dataset at {buffer.where!r} holds no logits, values or embeddings, so there is "
            "nothing to compare an expert with: verify without relabelling"
        )
        raise MissingArrayError(msg)
    given_experts = [
        load(
            *(name, buffer.spec, expert_recipe if prefix_of(str(name)) else None),
            opponents=opponents,
        )
        for name in experts
    ]
    chosen = choose(buffer, episodes, seed)
    divergences = _Divergences(distributions.played(buffer.spec))
    tally = _Tally(Comparison(buffer.spec, TOLERANCE), divergences)
    checks = []
    operation = Operation("relabel", {"dataset": buffer.id, "episodes": episodes, "seed": seed})
    with observed(operation, observers) as observer:
        for record, expert_episodes in _by_expert(buffer, chosen):
            expert = _expert(buffer, record, given_experts).calibrated(record.calibration)
            _require_full(buffer, expert)
            checks.append(_check(record, expert))
            for part in parts(buffer, _needed(buffer, expert), expert_episodes):
                _label(expert, part, tally)
                observer.progress(tally.done, len(chosen), "episodes, relabel")
    return RelabelReport(
        ok=tally.comparison.first is None,
        experts=tuple(checks),
        episodes=tally.done,
        steps=tally.steps,
        tolerance=TOLERANCE,
        policy=tally.policy.report(),
        arrays=tally.comparison.arrays(),
        first=tally.comparison.first,
    )


def _by_expert(buffer: ExpertBuffer, chosen: IntArray) -> Iterator[tuple[ExpertRecord, IntArray]]:
    """Yield each expert that labelled some of the chosen episodes, with these episodes."""
    records = buffer.manifest.experts
    if not records:
        msg = f"the dataset at {buffer.where!r} names no expert: verify without relabelling"
        raise UsageError(msg)
    if not buffer.has("episodes/expert_id"):
        yield records[0], chosen
        return
    played_by = buffer.episodes("expert_id")[chosen]
    for record in records:
        episodes = chosen[played_by == record.id]
        if len(episodes):
            yield record, episodes


def _expert(buffer: ExpertBuffer, record: ExpertRecord, given_experts: Sequence[Expert]) -> Expert:
    """Return the expert of a record: by its digest, or the only one that was given."""
    for expert in given_experts:
        if expert.digest == record.digest:
            return expert
    if len(given_experts) == 1 and len(buffer.manifest.experts) == 1:
        return given_experts[0]
    bundled = find(record.digest, buffer.spec)
    if bundled is None:
        msg = (
            f"expert {record.id} of the dataset ({record.kind} {record.reference}, weights "
            f"{record.digest or 'without a digest'}) does not come with kd-offline"
        )
        raise UsageError(msg, Remedy("pass its folder as", experts=...))
    return bundled


def _require_full(buffer: ExpertBuffer, expert: Expert) -> None:
    if needs_full(expert) and not buffer.has("steps/obs_full"):
        msg = (
            f"expert {expert.reference!r} acts by full observations, and the dataset at "
            f"{buffer.where!r} holds none (steps/obs_full), so it cannot be asked again"
        )
        raise MissingArrayError(
            msg, Remedy("record with", operation="record", full_observations=True)
        )


def _check(record: ExpertRecord, expert: Expert) -> ExpertCheck:
    return ExpertCheck(
        id=record.id,
        reference=expert.reference,
        recorded_digest=record.digest,
        digest=expert.digest,
        same=expert.digest == record.digest,
    )


def _needed(buffer: ExpertBuffer, expert: Expert) -> list[str]:
    inputs = ("obs", "obs_full", "state", "available_actions", "alive")
    outputs = [name for name in _OUTPUTS if expert.with_value or name not in _OF_VALUE]
    names = [f"steps/{name}" for name in (*inputs, "actions", *outputs)]
    names += [name for name in buffer.manifest.arrays if name.startswith(f"steps/{TAP}")]
    names += [*(f"final/{name}" for name in (*inputs, *_OF_END)), "episodes/seed"]
    return [name for name in names if buffer.has(name)]


def _label(expert: Expert, part: Part, tally: _Tally) -> None:
    """Run an expert over some episodes, and over the view after each for its final value."""
    spec = tally.comparison.spec
    seeds = part.arrays.get("episodes/seed", np.zeros(len(part.episodes), np.uint64))
    memory, longest = expert.start(seeds), int(part.lengths.max())
    has_final = "final/obs" in part.arrays
    has_final &= any(f"final/{name}" in part.arrays for name in _OF_END)
    has_final &= spec.state_is_obs or "final/state" in part.arrays
    has_final &= not needs_full(expert) or "final/obs_full" in part.arrays
    for step in range(longest + has_final):
        output, memory = expert.act(_view(spec, part, step), memory)
        _compare(part, output, part.lengths > step, step, tally)
        if has_final:
            _compare_final(part, output, part.lengths == step, tally)
    tally.done += len(part.episodes)
    tally.steps += int(part.lengths.sum())


def _view(spec: EnvironmentSpec, part: Part, step: int) -> View:
    """Return the expert's view at ``step``; for ended episodes the view after their last step."""
    ended = part.lengths <= step

    def array_at(name: str) -> Array:
        steps = part.arrays[f"steps/{name}"]
        now, final = steps[:, min(step, steps.shape[1] - 1)], part.arrays.get(f"final/{name}")
        if final is None or not ended.any():
            return now
        return np.where(ended.reshape(-1, *[1] * (now.ndim - 1)), final, now)

    obs = array_at("obs")
    not_padding = np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]
    last = None
    if step:
        acted, executed = (part.arrays[f"steps/{n}"][:, step - 1] for n in ("alive", "actions"))
        last = np.where(acted, executed, 0).astype(np.int64)
    return View(
        obs=obs,
        state=array_at("state") if "steps/state" in part.arrays else obs[:, not_padding],
        available_actions=array_at("available_actions"),
        alive=array_at("alive"),
        last_actions=last,
        obs_full=array_at("obs_full") if "steps/obs_full" in part.arrays else None,
    )


def _compare(
    part: Part, output: PolicyOutput, running: BoolArray, step: int, tally: _Tally
) -> None:
    if not running.any():
        return
    acting = running[:, None] & part.arrays["steps/alive"][:, step]
    outputs = _outputs(output, part.arrays["steps/actions"][:, step].astype(np.int64))
    for field_name, recomputed in outputs.items():
        name = f"steps/{field_name}"
        if name not in part.arrays or recomputed is None:
            continue
        stored = part.arrays[name][:, step]
        if recomputed.shape != stored.shape:
            msg = (
                f"{name} holds {stored.shape[-1]} numbers of each agent, but this expert has "
                f"{recomputed.shape[-1]}, so it is not the recorded one"
            )
            raise MismatchError(msg, Remedy("pass that one's folder as", experts=...))
        counts = acting if recomputed.ndim > 1 else running
        if field_name == "logits":
            legal = part.arrays["steps/available_actions"][:, step]
            tally.policy.add(stored, recomputed, legal, counts)
        same_type = recomputed.astype(stored.dtype)
        tally.comparison.add(name, same_type, stored, counts, part.episodes, step)


def _outputs(output: PolicyOutput, actions: IntArray) -> dict[str, Array | None]:
    """Return an expert's outputs for a view, and its values of the executed actions."""
    outputs = {name: getattr(output, name, None) for name in _OUTPUTS}
    if output.mix is not None:
        outputs["q_tot"], outputs["mixer_credit"] = output.mix(actions)
    return outputs | {f"{TAP}{name}": layer for name, layer in output.taps.items()}


def _compare_final(part: Part, output: PolicyOutput, ended: BoolArray, tally: _Tally) -> None:
    alive = ended[:, None] & part.arrays.get("final/alive", np.True_)
    for name, recomputed, counts in (
        ("final/value", output.value, alive),
        ("final/q_tot_max", output.q_tot_max, ended),
    ):
        if recomputed is not None and name in part.arrays and ended.any():
            tally.comparison.add(name, recomputed, part.arrays[name], counts, part.episodes)
