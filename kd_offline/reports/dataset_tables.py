"""Tables of a dataset's page."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kd_offline.datasets.analysis.profile import Profile
from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.datasets.metadata.summary import format_bytes as size_words
from kd_offline.datasets.metadata.summary import stored_bytes_by_array
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.statistics import side_returns
from kd_offline.reports.formatting import duration, number, percent, short, whole
from kd_offline.reports.tables import Table, table
from kd_offline.schemas.dataset import DatasetManifest, Spread

_DASH = "\N{EN DASH}"


def returns_table(profile: Profile) -> Table:
    """Return the number of episodes and the mean return of each split and noise level."""
    parts = [("split", profile.returns), ("noise", profile.returns_by_noise)]
    rows = [
        (
            f"{kind} {name}",
            whole(counts.sum()),
            number(histogram.means[name]) if name in histogram.means else _DASH,
        )
        for kind, histogram in parts
        if histogram is not None
        for name, counts in histogram.counts.items()
    ]
    return table("Parts of the episodes", "part|episodes|mean return", rows)


def spreads_table(buffer: ExpertBuffer) -> Table:
    """Return the spread of returns and lengths; where there are several sides, of each side."""
    statistics, agents = buffer.manifest.statistics, buffer.spec.agents
    sides = side_returns(buffer.spec, buffer.episodes("agent_return"))
    rows = [(f"return of side {side}", *_spread(spread)) for side, spread in sides.items()]
    rows = rows or [("return, all agents", *_spread(statistics.returns))]
    rows += [
        (f"return of {agent}", *_spread(spread))
        for agent, spread in zip(agents, statistics.agent_returns, strict=False)
    ]
    rows.append(("length, steps", *_spread(statistics.length)))
    return table("Over all episodes", "figure|mean|deviation|least|most", rows)


def _spread(spread: Spread) -> tuple[str, str, str, str]:
    return number(spread.mean), number(spread.std), number(spread.min), number(spread.max)


def taken_table(manifest: DatasetManifest) -> Table:
    """Return the share of each action of each agent."""
    rows = [(name, percent(share)) for name, share in _action_shares(manifest)]
    return table("Actions of the recorded agents", "action|taken", rows)


def actions_table(manifest: DatasetManifest, profile: Profile) -> Table:
    """Return how often each action was taken, and how often it was legal."""
    names = manifest.environment.action_names
    legal = [
        rate
        for row, labels in zip(profile.legal, names, strict=True)
        for rate in row[: len(labels)]
    ]
    rows = [
        (name, percent(share), percent(float(rate)))
        for (name, share), rate in zip(_action_shares(manifest), legal, strict=False)
    ]
    return table("Actions of agents that are alive", "action|taken|legal", rows)


def _action_shares(manifest: DatasetManifest) -> Iterator[tuple[str, float]]:
    """Yield the name and the share of every action of every agent."""
    spec = manifest.environment
    all_counts = manifest.statistics.action_counts
    for agent, names, counts in zip(spec.agents, spec.action_names, all_counts, strict=True):
        for name, count in zip(names, counts, strict=False):
            yield f"{agent}: {name}", count / max(1, sum(counts))


def sources_table(manifest: DatasetManifest, profile: Profile) -> Table | None:
    """Return the share of actions that each source chose; None where sources were not recorded."""
    if profile.sources is None:
        return None
    rows = []
    for agent, counts in zip(manifest.environment.agents, profile.sources, strict=True):
        total = max(1, int(counts.sum()))
        rows.append((agent, *(percent(int(count) / total) for count in counts)))
    heads = "|".join(
        ["agent", *(name.replace("other", "another policy") for name in ACTION_SOURCES)]
    )
    return table("Who chose the actions", heads, rows)


def entropy_table(manifest: DatasetManifest, profile: Profile) -> Table | None:
    """Return each agent's mean entropy at the start, in the middle and at the end of episodes."""
    if profile.entropy is None:
        return None
    middle = len(profile.entropy) // 2
    rows = [
        (agent, *(_finite(column[k], 3) for k in (0, middle, -1)))
        for agent, column in zip(manifest.environment.agents, profile.entropy.T, strict=True)
    ]
    return table("Entropy, nats", "agent|first steps|middle|last steps", rows)


def calibration_table(manifest: DatasetManifest, profile: Profile) -> Table | None:
    """Return how well the critic's values predict returns; None without recorded values."""
    calibration = profile.calibration
    if calibration is None:
        return None
    rows = [
        (
            agent,
            whole(calibration.count[k].sum()),
            _finite(calibration.correlation[k], 3),
            _finite(calibration.bias[k], 3),
            percent(float(calibration.explained[k]))
            if np.isfinite(calibration.explained[k])
            else _DASH,
        )
        for k, agent in enumerate(manifest.environment.agents)
    ]
    heads = "agent|steps|correlation|mean of value minus return|variance explained"
    return table("Values against discounted returns", heads, rows)


def mask_tables(manifest: DatasetManifest, profile: Profile) -> Iterator[Table]:
    """Yield for each mask a table of the blocks that it shows to each agent."""
    for name, agents in profile.masks.items():
        blocks = list(
            dict.fromkeys(block for visible_shares in agents.values() for block in visible_shares)
        )
        rows = [
            (agent, *(_visible(visible_shares.get(block)) for block in blocks))
            for agent, visible_shares in agents.items()
        ]
        record = manifest.masks.get(name)
        description = f": {record.description}" if record is not None and record.description else ""
        yield table(f"Mask {name}{description}", ["agent", *blocks], rows)


def _visible(share: float | None) -> str:
    if share is None:
        return _DASH
    return {0.0: "hidden", 1.0: "seen"}.get(share, percent(share))


def _finite(value: float, digits: int) -> str:
    return number(float(value), digits) if np.isfinite(value) else _DASH


def origin_tables(buffer: ExpertBuffer) -> Iterator[Table]:
    """Yield tables of the dataset, its experts, the recording and the lineage."""
    manifest = buffer.manifest
    yield _facts_table("Dataset", _dataset(manifest))
    for expert in manifest.experts:
        shape = ", ".join(f"{k} {v}" for k, v in expert.architecture.items() if v is not None)
        facts = {
            "kind": expert.kind,
            "reference": expert.reference,
            "digest of its weights": expert.digest or "",
            "parameters": whole(expert.parameters),
            "architecture": shape,
            "output": f"{expert.capture.output}, unmasked, temperature 1",
            "embedding": expert.capture.embedding,
            "discount": "" if expert.gamma is None else f"{expert.gamma:g}",
            "values": expert.value_of,
            "opponents": ", ".join(f"{k} played by {v}" for k, v in expert.opponents.items()),
        }
        yield _facts_table(f"Expert {expert.id}", facts)
    yield _facts_table("Recording", _recording(manifest))
    rows = [
        (step.operation, ", ".join(map(short, step.parents)), _settings(step.arguments))
        for step in manifest.lineage
    ]
    yield table("Lineage", "operation|parents|arguments", rows)


def _dataset(manifest: DatasetManifest) -> dict[str, str]:
    spec = manifest.environment
    sides = "; ".join(f"{side}: {', '.join(agents)}" for side, agents in spec.sides.items())
    return {
        "id": manifest.id,
        "environment": f"{spec.id} {spec.version}",
        "settings": _settings(spec.kwargs),
        "sides": sides,
        "licence": manifest.licence or "not stated",
        "citation": manifest.citation,
        "files": whole(len(manifest.files)),
        "shards": whole(len(manifest.shards)) if manifest.shards else "",
    }


def _recording(manifest: DatasetManifest) -> dict[str, str]:
    recording = manifest.recording
    noise = ", ".join(f"{part.level:g} in {part.share:.1%}" for part in recording.noise)
    return {
        "seed": str(recording.seed),
        "behaviour": recording.behaviour,
        "noise": noise or "none",
        "rule of the noise": recording.noise_rule,
        "settings": _settings(recording.settings),
        "software": _settings(recording.software),
        "revision": recording.code_revision,
        "machine": _settings(recording.machine),
        "took": "" if recording.seconds is None else duration(recording.seconds),
    }


def arrays_table(buffer: ExpertBuffer) -> Table:
    """Return type, shape, stored size and digest of every array."""
    sizes = stored_bytes_by_array(buffer.manifest)
    rows = [
        (
            name,
            spec.dtype,
            ", ".join(f"{a} = {s:,}" for a, s in zip(spec.axes, spec.shape, strict=True)),
            size_words(sizes[name]) if buffer.manifest.holds(name) else "in shards",
            short(spec.digest),
        )
        for name, spec in buffer.manifest.arrays.items()
    ]
    return table("Arrays", "array|type|axes|stored|content digest", rows)


def _facts_table(caption: str, facts: dict[str, str]) -> Table:
    return table(caption, "what|value", [(k, v) for k, v in facts.items() if v])


def _settings(values: object) -> str:
    pairs = values.items() if isinstance(values, dict) else ()
    return ", ".join(f"{key} = {value}" for key, value in pairs)
