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
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.schemas.run import RunManifest
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
    robustness, latency = folder.robustness(), folder.latency()
    quantisation = folder.quantisation()
    title = f"{manifest.method} on {manifest.environment}, mask {manifest.mask}"
    parts = [f"# {for_markdown(title)}"]
    if evaluation is None:
        parts.append(_next_step(manifest, run))
    else:
        parts += _retention_and_cost(evaluation, manifest)
    if robustness is not None:
        section = robustness_section(robustness)
        parts += [f"## {section.title}", for_markdown(section.text), *_tables(*section.tables)]
    if latency is not None:
        parts += _tables(cost_tables.latency_table(latency))
        parts.append(for_markdown(f"Timed: {latency.convention}, on {latency.machine.processor}."))
    if (allocation := manifest.allocation) is not None:
        parts += _tables(
            budget_tables.budget_table(allocation),
            budget_tables.block_importance_table(allocation),
            budget_tables.sources_table(allocation),
        )
    if quantisation is not None:
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
    documents = (manifest, evaluation, robustness, latency, quantisation)
    parts.append(_commands([document.command for document in documents if document is not None]))
    return "\n\n".join(parts) + "\n"


def _next_step(manifest: RunManifest, run: str | Path) -> str:
    """Return the sentence that tells how to evaluate the run."""
    command = markdown_code(evaluate_command(manifest, run))
    code_note = code_that_runs(manifest)
    note = for_markdown(f" ({code_note})") if code_note else ""
    return f"Not evaluated yet: run {command}{note}."


def _retention_and_cost(evaluation: EvaluationReport, manifest: RunManifest) -> list[str]:
    """Return the sections about an evaluation."""
    notes = formatting.caveats(evaluation, manifest)
    conventions = f"Intervals: {evaluation.intervals}. Costs: {evaluation.cost.convention}."
    return [
        for_markdown(formatting.headline(evaluation)),
        "\n".join(f"- {for_markdown(note)}" for note in notes),
        *_tables(
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
        ),
        for_markdown(conventions),
    ]


def _commands(commands: Sequence[str]) -> str:
    """Return the section with the commands that make the run and its measurements again."""
    lines = [line for command in commands if command and (line := quoted_command(command))]
    return "\n".join(["## Again", "", *markdown_fence("\n".join(lines))])


def _tables(*tables: Table | None) -> list[str]:
    return [_table(table) for table in tables if table is not None and table.rows]


def _table(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = [table.columns, rule, *table.rows]
    body = "\n".join("| " + " | ".join(map(for_markdown, line)) + " |" for line in lines)
    return f"## {for_markdown(table.caption)}\n\n{body}"
