"""Write the report of a run as one HTML file without scripts and external files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd_offline.commands import command_text
from kd_offline.datasets.analysis.profile import returns_by_noise, returns_by_split
from kd_offline.errors import KdOfflineError
from kd_offline.files import check_output, write_output
from kd_offline.reports import (
    blind_spots,
    budget_tables,
    cost_tables,
    dataset_plots,
    dataset_tables,
    formatting,
    plots,
    tables,
)
from kd_offline.reports.devices import evaluated
from kd_offline.reports.page import Section, fill
from kd_offline.reports.quantisation_table import quantisation_summary, quantisation_table
from kd_offline.reports.robustness import robustness_section
from kd_offline.reports.student_divergence import run_blind_spots
from kd_offline.runs.complete import require_own_students
from kd_offline.runs.folder import RunFolder, open_run, recipe_of
from kd_offline.runs.judged import judged
from kd_offline.runs.next_command import code_that_runs, evaluate_command
from kd_offline.runs.source import open_dataset, why_unread
from kd_offline.schemas.budget import Allocation
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.schemas.latency import LatencyReport
from kd_offline.schemas.quantisation import QuantisationReport
from kd_offline.schemas.run import RunManifest
from kd_offline.untrusted_text import quoted_command


def report(
    run: str | Path,
    *,
    output: str | Path | None = None,
    profiles: Sequence[str | Path] = (),
    overwrite: bool = False,
) -> Path:
    """Write the HTML report of a run and return its path.

    The same run folder gives the same bytes. The dataset is shown if it is still at the path that
    the run states; otherwise its sections say why they are empty.

    Parameters
    ----------
    run : path
    output : path, optional
        Default: ``report.html`` in the run folder.
    profiles : sequence of str or path
        Devices to predict latency and energy for, instead of those of the evaluation.
    overwrite : bool
        Replace a file that is at ``output``; the run's own report is always replaced.

    Raises
    ------
    UsageError, CheckpointError
        There is no readable run at ``run``.
    MissingExtraError
        jinja2 or matplotlib is not installed.
    StorageError
        There is a file at ``output`` already, or it cannot be written.
    """
    folder = open_run(run)
    target, replace = (folder.report, True) if output is None else (Path(output), overwrite)
    check_output(target, overwrite=replace)
    write_output(target, render(folder, profiles), overwrite=replace)
    return target


def render(folder: RunFolder, profiles: Sequence[str | Path] = ()) -> str:
    """Return the page as text."""
    manifest, evaluation = folder.manifest(), evaluated(folder, profiles)
    require_own_students(folder, manifest)
    return fill(
        "report.html.j2",
        manifest=manifest,
        evaluation=evaluation,
        short_id=formatting.short(manifest.dataset.id),
        cards=formatting.cards(evaluation) if evaluation else [],
        headline=formatting.headline(evaluation) if evaluation else "",
        caveats=formatting.caveats(evaluation, manifest) if evaluation else [],
        sections=_sections(folder, manifest, evaluation),
        run_command=quoted_command(manifest.command or ""),
        evaluate_command=quoted_command(evaluation.command)
        if evaluation
        else evaluate_command(manifest, folder.path.name),
        code_that_runs="" if evaluation else code_that_runs(manifest),
    )


def _sections(
    folder: RunFolder, manifest: RunManifest, evaluation: EvaluationReport | None
) -> list[Section]:
    sections = [] if evaluation is None else _evaluation_sections(evaluation)
    robustness = folder.robustness()
    sections += [] if robustness is None else [robustness_section(robustness)]
    latency = folder.latency()
    sections += [] if latency is None else [_latency_section(latency)]
    sections += [] if manifest.allocation is None else [_budget_section(manifest.allocation)]
    quantisation = folder.quantisation()
    sections += [] if quantisation is None else [_quantisation_section(quantisation)]
    sections.append(_training_section(folder, manifest))
    sections.append(blind_spots.section(run_blind_spots(folder, manifest)))
    sections.append(_dataset_section(manifest, folder.path))
    sections.append(
        Section(
            "provenance",
            "Data and software",
            "What the students were distilled from, and with what. The dataset's id is a digest of "
            "its content: the same id is the same data.",
            (),
            (tables.source_table(manifest, evaluation), tables.provenance_table(manifest)),
        )
    )
    return sections


def _evaluation_sections(report: EvaluationReport) -> list[Section]:
    sections = [_retention_section(report), _cost_section(report), _action_section(report)]
    if report.cross_play is not None:
        sections.append(_cross_play_section(report))
    return sections


def _retention_section(report: EvaluationReport) -> Section:
    text = (
        "Every policy played the same evaluation seeds. Retention is the students' gain over "
        "random play, divided by the expert's, or by the mask ceiling's where one was played: the "
        "best policy known that sees only what the students see. Thin lines are 95 % intervals, "
        "dots single distillation seeds."
    )
    all_tables = [
        tables.retention_table(report),
        tables.returns_table(report),
        tables.wins_table(report),
        tables.seeds_table(report),
    ]
    present_tables = tuple(table for table in all_tables if table is not None)
    return Section(
        "retention", "What they keep", text, (plots.returns_plot(report),), present_tables
    )


def _cost_section(report: EvaluationReport) -> Section:
    text = f"Exact counts from the layer widths. {report.cost.convention[0].upper()}"
    text += f"{report.cost.convention[1:]}. Elementwise operations are counted on their own."
    all_tables = [
        cost_tables.cost_table(report),
        cost_tables.memory_table(report),
        cost_tables.prediction_table(report),
        cost_tables.network_table(report),
    ]
    present_tables = tuple(table for table in all_tables if table is not None)
    return Section("cost", "What they cost", text, (plots.cost_plot(report),), present_tables)


def _latency_section(report: LatencyReport) -> Section:
    compiled_by = f", C by {report.compiler}" if report.compiler else ""
    text = (
        f"Measured on {report.machine.processor}{compiled_by}, one thread, every engine in turn "
        f"in one run. A step is {report.convention}. Deadlines care for the tail, not for the mean."
    )
    return Section("time", "How long they take", text, (), (cost_tables.latency_table(report),))


def _quantisation_section(report: QuantisationReport) -> Section:
    text, table = quantisation_summary(report), quantisation_table(report)
    return Section("quantisation", "What eight bits cost", text, (), (table,))


def _action_section(report: EvaluationReport) -> Section:
    text = (
        "Share of each action at each step, over all evaluation episodes, darker is more often. "
        "Each policy is shown on the episodes that it played itself."
    )
    agreement = tables.agreement_table(report)
    present_tables = () if agreement is None else (agreement,)
    return Section(
        "actions", "How they act", text, (plots.heat_plot(report.action_frequency),), present_tables
    )


def _cross_play_section(report: EvaluationReport) -> Section:
    text = (
        "One agent at a time changes places between the expert's team and the students'. Where a "
        "student among experts falls short, that agent lost something itself; where an expert "
        "among students restores the team, the agent was the weak link."
    )
    cross_play, table = report.cross_play, tables.cross_table(report)
    figures = () if cross_play is None else (plots.cross_plot(cross_play),)
    return Section("mixed", "Mixed teams", text, figures, () if table is None else (table,))


_ALLOCATION_TEXT = {
    "worth": "An agent's width follows what hidden units make of the blocks that it sees.",
    "gates": "Widths were learned, by gates on hidden units; shown is the team that costs most.",
}


def _budget_section(allocation: Allocation) -> Section:
    text = (
        "Predicted from widths and from figures of the device, never measured. "
        + _ALLOCATION_TEXT[allocation.budget.allocate]
    )
    all_tables = (
        budget_tables.budget_table(allocation),
        budget_tables.block_importance_table(allocation),
        budget_tables.sources_table(allocation),
    )
    return Section("budget", "What they may cost", text, (), tuple(t for t in all_tables if t.rows))


def _training_section(folder: RunFolder, manifest: RunManifest) -> Section:
    recipe = recipe_of(manifest)
    curves = plots.curves_plot(folder.metrics(), recipe.terms.get("kl"))
    return Section(
        "training",
        "How they learned",
        "Each term over training, one line for each distillation seed; only what is the same "
        f"quantity shares an axis. This run: {judged(manifest)}.",
        () if curves is None else (curves,),
        (tables.training_table(manifest), tables.students_table(manifest)),
    )


def _dataset_section(manifest: RunManifest, run: Path) -> Section:
    """Return the section on the dataset; if that is missing or another one, it says so."""
    title = "What they learned from"
    try:
        buffer = open_dataset(manifest, run, None)
        by_split, by_noise = returns_by_split(buffer), returns_by_noise(buffer)
    except KdOfflineError as error:
        return Section("data", title, f"Left out: {why_unread(error)}.")
    text = (
        "Returns of the recorded episodes, and how often their agents took each action. For more, "
        f"run {command_text('inspect', buffer.where, html='dataset.html')}."
    )
    plot = dataset_plots.returns_plot(by_split, by_noise)
    table = dataset_tables.taken_table(buffer.manifest)
    return Section("data", title, text, (plot,), (table,))
