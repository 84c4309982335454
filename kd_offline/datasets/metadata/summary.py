"""``inspect``: summaries of a dataset, as a document and as text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.format.manifest import final_value_warning
from kd_offline.datasets.reading.nearest import NearestSteps
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.statistics import side_returns
from kd_offline.schemas.dataset import (
    ArraySummary,
    DatasetManifest,
    ExpertConflict,
    InspectReport,
    ReturnSummary,
    Spread,
)
from kd_offline.seeding import generator
from kd_offline.types import Array, FloatArray

EPISODES = 200
"""Episodes of each expert that are read."""

STEPS = 2000
"""Decisions of each agent and expert that are compared."""

RADIUS = 0.5
"""Deviations, of the mean feature, within which two observations count as the same situation."""


def inspect(path: str | Path) -> InspectReport:
    """Return the summary of the dataset at ``path``; raises as opening it does."""
    return summarise(ExpertBuffer.open(path))


def summarise(buffer: ExpertBuffer) -> InspectReport:
    """Return the summary of an open dataset."""
    manifest, returns = buffer.manifest, buffer.manifest.statistics.returns
    return InspectReport(
        id=manifest.id,
        format_version=manifest.format_version,
        environment=manifest.environment.id,
        agents=manifest.environment.agents,
        episodes=buffer.n_episodes,
        steps=buffer.n_steps,
        arrays={
            name: ArraySummary(shape=spec.shape, dtype=spec.dtype)
            for name, spec in manifest.arrays.items()
        },
        returns=ReturnSummary(mean=returns.mean, std=returns.std),
        side_returns={
            side: ReturnSummary(mean=x.mean, std=x.std)
            for side, x in side_returns(buffer.spec, buffer.episodes("agent_return")).items()
        }
        or None,
        conflicts=expert_conflicts(buffer) or None,
        bytes=size_bytes(buffer),
    )


def size_bytes(buffer: ExpertBuffer) -> int:
    """Return the stored bytes of a dataset, with its manifest."""
    return buffer.manifest.size_bytes + (buffer.files.size(MANIFEST) or 0)


def render(buffer: ExpertBuffer) -> list[str]:
    """Return a summary of an open dataset as lines of text."""
    manifest = buffer.manifest
    experts = [*_experts(manifest), *_conflicts(buffer)]
    parts = [_heading(buffer), experts, _recording(manifest), _statistics(buffer)]
    return [line for part in parts for line in (*part, "")] + _arrays(manifest)


def stored_bytes_by_array(manifest: DatasetManifest) -> dict[str, int]:
    """Return array -> bytes of its files."""
    sizes = dict.fromkeys(manifest.arrays, 0)
    for file in manifest.files:
        name = "/".join(file.path.split("/")[:2])
        if name in sizes:
            sizes[name] += file.size
    return sizes


def format_bytes(size: int) -> str:
    """Return a number of bytes as text with a unit, such as ``1.5 MB``."""
    for least, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= least:
            return f"{size / least:,.1f} {unit}"
    return f"{size} B"


def _heading(buffer: ExpertBuffer) -> list[str]:
    manifest, spec = buffer.manifest, buffer.spec
    version = ".".join(map(str, manifest.format_version))
    settings = ", ".join(f"{key}={value}" for key, value in spec.kwargs.items())
    sides = "; ".join(f"{side}: {', '.join(agents)}" for side, agents in spec.sides.items())
    return [
        f"{manifest.name} {manifest.version}  (format {version})",
        *([manifest.description] if manifest.description else []),
        f"id           {manifest.id}",
        f"environment  {spec.id}{f' ({settings})' if settings else ''}, limit {spec.episode_limit}",
        f"agents       {spec.n_agents} ({sides})",
        f"episodes     {buffer.n_episodes:,}   steps {buffer.n_steps:,}   "
        f"stored {size_bytes(buffer) / 1e6:,.1f} MB",
        f"licence      {manifest.licence or 'not stated'}",
    ]


def _experts(manifest: DatasetManifest) -> list[str]:
    lines = []
    for expert in manifest.experts:
        opponents = "".join(f"; {side} played by {who}" for side, who in expert.opponents.items())
        lines.append(
            f"expert {expert.id}     {expert.kind} {expert.reference}, {expert.parameters:,} "
            f"parameters, {expert.capture.output} unmasked at temperature 1{opponents}"
        )
    warning = final_value_warning(manifest)
    return [
        *(lines or ["expert       not recorded"]),
        *([] if warning is None else [f"values       {warning}"]),
    ]


def _conflicts(buffer: ExpertBuffer) -> list[str]:
    lines = []
    for found in expert_conflicts(buffer):
        one, other = found.experts
        apart = "nothing to compare" if found.kl is None else f"KL {found.kl:.3f} nats"
        lines.append(
            f"conflict     experts {one} and {other}: {apart}, {found.compared:.0%} of the "
            "decisions have a similar situation of the other"
        )
    return lines


def _recording(manifest: DatasetManifest) -> list[str]:
    recording = manifest.recording
    noise = ", ".join(f"{part.level:g} ({part.share:.0%})" for part in recording.noise)
    splits = ", ".join(f"{name} {split.episodes:,}" for name, split in manifest.splits.items())
    parents = ", ".join(p[:19] for step in manifest.lineage for p in step.parents)
    return [
        f"recording    seed {recording.seed}, {recording.behaviour} actions, "
        f"noise {noise or 'none'}",
        f"splits       {splits}",
        f"masks        {', '.join(manifest.masks) or 'none'}",
        *([f"parents      {parents}"] if parents else []),
    ]


def _statistics(buffer: ExpertBuffer) -> list[str]:
    manifest, figures = buffer.manifest, buffer.manifest.statistics
    sides = side_returns(buffer.spec, buffer.episodes("agent_return"))
    width = max(10, *map(len, (*manifest.environment.agents, *sides)))
    lines = [f"return       {_spread(figures.returns)}  (sum over agents and steps)"]
    if sides:
        lines = ["return of each side, sum over its agents and steps"]
        lines += [f"  {side:<{width}} {_spread(returns)}" for side, returns in sides.items()]
        lines.append("return of each agent")
    for agent, returns in zip(manifest.environment.agents, figures.agent_returns, strict=True):
        lines.append(f"  {agent:<{width}} {_spread(returns)}")
    lines.append(f"length       {_spread(figures.length)}")
    if figures.won is not None:
        lines.append(f"won          {figures.won:.1%}")
    lines.append("actions")
    for agent, names, counts in zip(
        manifest.environment.agents,
        manifest.environment.action_names,
        figures.action_counts,
        strict=True,
    ):
        total = max(1, sum(counts))
        shares = "  ".join(f"{n} {c / total:.1%}" for n, c in zip(names, counts, strict=False))
        lines.append(f"  {agent:<{width}} {shares}")
    return lines


def _arrays(manifest: DatasetManifest) -> list[str]:
    width, sizes = max(len(name) for name in manifest.arrays), stored_bytes_by_array(manifest)
    return [
        f"{name:<{width}}  {spec.dtype:<8} {_stored(manifest, name, sizes[name]):>9}  "
        f"[{', '.join(f'{a}={s}' for a, s in zip(spec.axes, spec.shape, strict=True))}]"
        for name, spec in manifest.arrays.items()
    ]


def _stored(manifest: DatasetManifest, name: str, size: int) -> str:
    return format_bytes(size) if manifest.holds(name) else "in shards"


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.3f} ± {spread.std:.3f}, {spread.min:.3f} to {spread.max:.3f}"


class _Decisions(NamedTuple):
    """Decisions of one agent: observations, log probabilities and legal actions."""

    obs: Array  # [M, O]
    log_policy: FloatArray  # [M, A], 0 where illegal
    legal: Array  # [M, A]


def expert_conflicts(buffer: ExpertBuffer) -> tuple[ExpertConflict, ...]:
    """Return the divergence of the policies of each two experts, on a sample of their episodes.

    Every decision of one expert is compared with the nearest one of the other, by the agent's
    observation in deviations, if it is within :data:`RADIUS` and the same actions are legal. Empty
    where one expert was recorded, or none of them by its logits.
    """
    if not (buffer.has("episodes/expert_id") and buffer.has("steps/logits")):
        return ()
    experts = np.unique(buffer.episodes("expert_id")).tolist()
    if len(experts) < len(("one", "other")):
        return ()
    sampled = {expert: _sample(buffer, expert) for expert in experts}
    return tuple(
        _conflict(one, other, sampled[one], sampled[other])
        for one, other in combinations(experts, 2)
    )


def _sample(buffer: ExpertBuffer, expert: int) -> list[_Decisions]:
    """Return decisions of every agent in the episodes of an expert."""
    episodes = np.flatnonzero(buffer.episodes("expert_id") == expert)
    rng = generator(0, "expert conflicts", expert)
    if len(episodes) > EPISODES:
        episodes = np.sort(rng.choice(episodes, EPISODES, replace=False))
    names = [f"steps/{name}" for name in ("obs", "logits", "available_actions", "alive")]
    obs, logits, legal, alive = buffer.load(names, episodes).values()
    decisions = []
    for agent in range(buffer.spec.n_agents):
        rows = np.flatnonzero(alive[:, agent] & (legal[:, agent].sum(-1) > 1))
        if len(rows) > STEPS:
            rows = np.sort(rng.choice(rows, STEPS, replace=False))
        own = legal[rows, agent]
        log_policy = _log_softmax(logits[rows, agent], own)
        decisions.append(_Decisions(obs[rows, agent], log_policy, own))
    return decisions


def _log_softmax(logits: Array, legal: Array) -> FloatArray:
    values = np.where(legal, logits.astype(np.float64), -np.inf)
    values = values - values.max(-1, keepdims=True, initial=-1e300)
    logs = values - np.log(np.exp(values).sum(-1, keepdims=True))
    return np.where(legal, logs, 0.0)


def _conflict(
    one: int, other: int, first: list[_Decisions], second: list[_Decisions]
) -> ExpertConflict:
    found = [part for pair in zip(first, second, strict=True) for part in _compared(*pair)]
    total = sum(len(own.obs) for decisions in (first, second) for own in decisions)
    divergence = np.concatenate(found) if found else np.zeros(0)
    return ExpertConflict(
        experts=(one, other),
        kl=float(divergence.mean()) if len(divergence) else None,
        compared=len(divergence) / total if total else 0.0,
    )


def _compared(one: _Decisions, other: _Decisions) -> Iterator[FloatArray]:
    """Yield KL of each decision from the nearest of the other expert, both ways, in nats."""
    if not (len(one.obs) and len(other.obs)):
        return
    deviation = np.concatenate([one.obs, other.obs]).astype(np.float64).std(0)
    scale = np.where(deviation > 1e-6, deviation, 1.0)
    for own, theirs in ((one, other), (other, one)):
        near = NearestSteps(theirs.obs / scale).find(own.obs / scale, 1)
        place = near.place[:, 0]
        same = (own.legal == theirs.legal[place]).all(-1)
        same &= near.distance[:, 0] <= RADIUS**2 * own.obs.shape[-1]
        gaps = own.log_policy - theirs.log_policy[place]
        yield (np.exp(own.log_policy) * own.legal * gaps).sum(-1)[same]
