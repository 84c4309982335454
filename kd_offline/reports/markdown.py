"""The report as Markdown: the same sentences and tables, without figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd_offline.reports import budget_tables, cost_tables, tables, words
from kd_offline.reports.devices import evaluated
from kd_offline.reports.quantisation_table import quantisation_table, quantisation_words
from kd_offline.reports.tables import Table
from kd_offline.runs.folder import open_run


def markdown(run: str | Path, *, profiles: Sequence[str | Path] = ()) -> str:
    """Return the report of a run as Markdown.

    ``profiles`` are devices to predict latency and energy for, in place of those of the evaluation.

    Raises
    ------
    UsageError, CheckpointError
        There is no readable run at ``run``.
    """
    folder = open_run(run)
    manifest, evaluation = folder.manifest(), evaluated(folder, profiles)
    parts = [f"# {manifest.method} on {manifest.environment}, mask {manifest.mask}"]
    if evaluation is None:
        parts.append(f"Not evaluated yet: run `kd-offline evaluate {run}`.")
    else:
        parts.append(words.headline(evaluation))
        parts.append("\n".join(f"- {note}" for note in words.caveats(evaluation, manifest)))
        parts += _tables(
            tables.retention_table(evaluation),
            tables.returns_table(evaluation),
            tables.wins_table(evaluation),
            tables.seeds_table(evaluation),
            cost_tables.cost_table(evaluation),
            cost_tables.memory_table(evaluation),
            cost_tables.prediction_table(evaluation),
            cost_tables.network_table(evaluation),
            tables.agreement_table(evaluation),
            tables.cross_table(evaluation),
        )
        parts.append(f"Intervals: {evaluation.intervals}. Costs: {evaluation.cost.convention}.")
    if (timed := folder.latency()) is not None:
        parts += _tables(cost_tables.latency_table(timed))
        parts.append(f"Timed: {timed.convention}, on {timed.machine.processor}.")
    if (allocation := manifest.allocation) is not None:
        parts += _tables(
            budget_tables.budget_table(allocation),
            budget_tables.worth_table(allocation),
            budget_tables.sources_table(allocation),
        )
    if (rounded := folder.quantisation()) is not None:
        parts += _tables(quantisation_table(rounded))
        parts.append(quantisation_words(rounded))
    parts += _tables(
        tables.source_table(manifest, evaluation),
        tables.training_table(manifest),
        tables.students_table(manifest),
        tables.provenance_table(manifest),
    )
    commands = [manifest.command] + ([] if evaluation is None else [evaluation.command])
    commands += [] if timed is None else [timed.command]
    commands += [] if rounded is None else [rounded.command]
    parts.append("## Again\n\n```\n" + "\n".join(filter(None, commands)) + "\n```")
    return "\n\n".join(parts) + "\n"


def _tables(*found: Table | None) -> list[str]:
    return [_table(table) for table in found if table is not None and table.rows]


def _table(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = [table.columns, rule, *table.rows]
    body = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
    return f"## {table.caption}\n\n{body}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
