"""Statistical signs that a dataset was poisoned.

Digests and signatures tell whether the bytes are the maker's. They cannot tell whether the maker,
or one of the makers of a merged dataset, changed labels on purpose. The audit compares every source
(consecutive episodes of one expert) with what else was recorded:

actions
    with the recorded policy that drew them;
outputs
    with the embedding that they are a linear function of, where they are;
labels, embeddings
    with what is predicted from the observations and the past, by a fit on other sources; the rate
    of surprises is compared with that of other sources, overall and by region;
patterns
    the same where an observation holds an exact value that is often there when labels surprise.

P values are upper bounds, and Holm's procedure keeps the probability of any false alarm on a clean
dataset below :data:`LEVEL`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_offline.datasets.analysis.evidence import (
    rejected,
)
from kd_offline.datasets.analysis.poison_sample import (
    Source,
    Table,
    sources,
)
from kd_offline.datasets.analysis.poison_tests import ExpertTests, Progress, Test
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import MissingArrayError
from kd_offline.schemas.audit import (
    AuditCheck,
    AuditFinding,
    AuditReport,
    CheckName,
    DecisionPlace,
)
from kd_offline.tracking.base import Observer, Operation, observed

LEVEL = 0.005
"""Probability of a false alarm over all tests of a dataset, at most."""

MOST_FINDINGS = 20
_PLACES = 10
_EACH = 3  # findings of one check and source


def audit_dataset(
    dataset: ExpertBuffer | str | Path, *, seed: int = 0, observers: Sequence[Observer] = ()
) -> AuditReport:
    """Look for statistical signs that a dataset was poisoned.

    Needs neither environment nor expert, and reads a bounded number of episodes of every part of
    the dataset in bounded memory. The same dataset gives the same report.

    Parameters
    ----------
    dataset
        An open dataset or its address.
    seed
        Which episodes of a large dataset are read.
    observers
        They receive the number of episodes that are read.

    Raises
    ------
    MissingArrayError
        The dataset holds no logits.
    CorruptDatasetError
        A chunk is missing or damaged.
    """
    buffer = dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)
    if not buffer.has("steps/logits"):
        msg = (
            f"the dataset at {buffer.where!r} holds no logits, so there are no labels to audit: "
            "verify it without the audit"
        )
        raise MissingArrayError(msg)
    parts = sources(buffer, seed)
    experts = sorted({source.expert for source in parts})
    with observed(Operation("audit", {"dataset": buffer.id}), observers) as observer:
        progress = Progress(observer, 2 * sum(len(source.episodes) for source in parts))
        audits = [
            ExpertTests(buffer, [s for s in parts if s.expert == expert], progress)
            for expert in experts
        ]
        observer.result = report = _report(buffer, parts, audits)
        return report


def _report(
    buffer: ExpertBuffer, parts: Sequence[Source], audits: Sequence[ExpertTests]
) -> AuditReport:
    tests = [test for audited in audits for test in audited.tests]
    tables = {audited.expert: audited.table for audited in audits}
    alarms = rejected([test.log_p for test in tests], LEVEL)
    found = sorted(
        (test for test, alarm in zip(tests, alarms, strict=True) if alarm),
        key=lambda test: (test.log_p, test.source.first),
    )
    kept, times = [], dict[tuple[str, int], int]()
    for test in found:
        key = (test.check, test.source.first)
        times[key] = times.get(key, 0) + 1
        if times[key] <= _EACH:
            kept.append(test)
    shown = kept[:MOST_FINDINGS]
    notes: dict[CheckName, str] = {}
    for audited in audits:
        for name, note in audited.notes.items():
            notes.setdefault(name, note)
    names: tuple[CheckName, ...] = ("actions", "outputs", "labels", "embeddings", "patterns")
    return AuditReport(
        ok=not found,
        episodes=sum(len(source.episodes) for source in parts),
        decisions=sum(len(table.agent) for table in tables.values()),
        sources=len(parts),
        level=LEVEL,
        checks={
            name: AuditCheck(
                tests=sum(test.check == name for test in tests), note=notes.get(name, "")
            )
            for name in names
        },
        findings=tuple(_finding(buffer, test, tables[test.source.expert]) for test in shown),
        keep=_keep(buffer, [test.source for test in found], len(parts)),
        left_out=len(found) - len(shown),
    )


def _keep(buffer: ExpertBuffer, suspects: Sequence[Source], sources: int) -> str | None:
    """Return the condition that leaves out some sources, or None where nothing would be left."""
    several = buffer.has("episodes/expert_id") and len(buffer.manifest.experts) > 1
    ranges = {(source.first, source.stop, source.expert) for source in suspects}
    if not ranges or len(ranges) >= sources or any(not len(s.episodes) for s in suspects):
        return None
    parts = []
    for first, stop, expert in sorted(ranges):
        of = f" and expert_id == {expert}" if several else ""
        parts.append(f"not (episode >= {first} and episode < {stop}{of})")
    return " and ".join(parts)


def _finding(buffer: ExpertBuffer, test: Test, table: Table) -> AuditFinding:
    spec, source, rows = buffer.spec, test.source, test.rows
    action = None
    if len(rows):
        of_agent = table.agent[rows] == table.agent[rows[0]]
        common = int(np.bincount(table.label[rows[of_agent]]).argmax())
        agent_names = spec.action_names[int(table.agent[rows[0]])]
        most = np.mean(table.label[rows] == common) > 0.5
        action = agent_names[common] if most and common < len(agent_names) else None
    return AuditFinding(
        check=test.check,
        expert=source.expert,
        episodes=(source.first, source.stop),
        agent=None if test.agent is None else spec.agents[test.agent],
        where=test.where,
        action=action,
        count=test.hits,
        of=test.of,
        expected=round(test.expected, 2),
        log10_p=round(test.log_p / math.log(10), 1),
        places=tuple(
            DecisionPlace(
                episode=int(table.episode[row]),
                step=int(table.step[row]),
                agent=spec.agents[int(table.agent[row])],
            )
            for row in rows[:_PLACES]
        ),
    )
