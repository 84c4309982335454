"""Write the report of a run as Markdown, with the sentences and tables of the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd_offline.reports import blind_spots, budget_tables, cost_tables, formatting, tables
from kd_offline.reports.devices import evaluated
from kd_offline.reports.quantisation_table import quantisation_summary, quantisation_table
from kd_offline.reports.robustness import robustness_section
from kd_offline.reports.student_divergence import run_blind_spots
from kd_offline.reports.tables import Table
from kd_offline.runs.complete import require_own_students
from kd_offline.runs.folder import open_run
from kd_offline.runs.next_command import code_that_runs, evaluate_command
from kd_offline.untrusted_text import (
    for_markdown,
    markdown_code,
    markdown_fence,
    quoted_command,
)


def markdown(run: str | Path, *, profiles: Sequence[str | Path] = ()) -> str:
    """Return the report of a run as Markdown.

    ``profiles`` are devices to predict latency and energy for, instead of those of the evaluation.

    Raises
    ------
    UsageError, CheckpointError
        There is no readable run at ``run``.
    """
    folder = open_run(run)
    manifest, evaluation = folder.manifest(), evaluated(folder, profiles)
    require_own_students(folder, manifest)
    title = f"{manifest.method} on {manifest.environment}, mask {manifest.mask}"
    parts = [f"# {for_markdown(title)}"]
    if evaluation is None:
        command = markdown_code(evaluate_command(manifest, run))
        code_note = code_that_runs(manifest)
        note = for_markdown(f" ({code_note})") if code_note else ""
        parts.append(f"Not evaluated yet: run {command}{note}.")
    else:
        parts.append(for_markdown(formatting.headline(evaluation)))
        parts.append(
            "\n".join(
                f"- {for_markdown(note)}" for note in formatting.caveats(evaluation, manifest)
            )
        )
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
        conventions = f"Intervals: {evaluation.intervals}. Costs: {evaluation.cost.convention}."
        parts.append(for_markdown(conventions))
    if (robustness := folder.robustness()) is not None:
        section = robustness_section(robustness)
        parts += [f"## {section.title}", for_markdown(section.text), *_tables(*section.tables)]
    if (latency := folder.latency()) is not None:
        parts += _tables(cost_tables.latency_table(latency))
        parts.append(for_markdown(f"Timed: {latency.convention}, on {latency.machine.processor}."))
    if (allocation := manifest.allocation) is not None:
        parts += _tables(
            budget_tables.budget_table(allocation),
            budget_tables.block_importance_table(allocation),
            budget_tables.sources_table(allocation),
        )
    if (quantisation := folder.quantisation()) is not None:
        parts += _tables(quantisation_table(quantisation))
        parts.append(for_markdown(quantisation_summary(quantisation)))
    spots = run_blind_spots(folder, manifest)
    parts += _tables(blind_spots.regions_table(spots))
    if missing := blind_spots.left_out(spots):
        parts.append(for_markdown(f"Blind spots. {missing}"))
    parts += _tables(
        tables.source_table(manifest, evaluation),
        tables.training_table(manifest),
        tables.students_table(manifest),
        tables.provenance_table(manifest),
    )
    commands = [manifest.command] + ([] if evaluation is None else [evaluation.command])
    commands += [] if robustness is None else [robustness.command]
    commands += [] if latency is None else [latency.command]
    commands += [] if quantisation is None else [quantisation.command]
    command_lines = [line for command in commands if command and (line := quoted_command(command))]
    parts.append("\n".join(["## Again", "", *markdown_fence("\n".join(command_lines))]))
    return "\n\n".join(parts) + "\n"


def _tables(*tables: Table | None) -> list[str]:
    return [_table(table) for table in tables if table is not None and table.rows]


def _table(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = [table.columns, rule, *table.rows]
    body = "\n".join("| " + " | ".join(map(for_markdown, line)) + " |" for line in lines)
    return f"## {for_markdown(table.caption)}\n\n{body}"
