"""One HTML file that needs nothing else: no script, no network, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd_offline.commands import command_text
from kd_offline.datasets.analysis.profile import returns_by_noise, returns_by_split
from kd_offline.errors import KdOfflineError
from kd_offline.files import check_output, write_output
from kd_offline.reports import (
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
from kd_offline.runs.folder import RunFolder, open_run, recipe_of
from kd_offline.runs.judged import judged
from kd_offline.runs.next_command import code_that_runs, evaluate_command
from kd_offline.runs.source import open_dataset
from kd_offline.runs.teams import require_own_students
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

    The same run folder gives the same bytes. The data that the students learned from is shown
    where it still lies at the path that the run names.

    Parameters
    ----------
    run : path
    output : path, optional
        Default: ``report.html`` in the run folder.
    profiles : sequence of str or path
        Devices to predict latency and energy for, in place of those of the evaluation.
    overwrite : bool
        Replace a file that is at ``output``; the run's own report always is.

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
    made = [] if evaluation is None else _evaluated(evaluation)
    timed = folder.latency()
    made += [] if timed is None else [_timed(timed)]
    made += [] if manifest.allocation is None else [_budget(manifest.allocation)]
    rounded = folder.quantisation()
    made += [] if rounded is None else [_rounded(rounded)]
    made += [_training(folder, manifest), *_data(manifest, folder.path)]
    made.append(
        Section(
            "provenance",
            "Data and software",
            "What the students were distilled from, and with what. The dataset's id is a digest of "
            "its content: the same id is the same data.",
            (),
            (tables.source_table(manifest, evaluation), tables.provenance_table(manifest)),
        )
    )
    return made


def _evaluated(report: EvaluationReport) -> list[Section]:
    made = [_retention(report), _costs(report), _actions(report)]
    if report.cross_play is not None:
        made.append(_mixed(report))
    return made


def _retention(report: EvaluationReport) -> Section:
    text = (
        "Every policy played the same evaluation seeds. Retention is the students' gain over "
        "random play, divided by the expert's, or by the mask ceiling's where one was played: the "
        "best policy known that sees only what the students see. Thin lines are 95 % intervals, "
        "dots single distillation seeds."
    )
    found = [
        tables.retention_table(report),
        tables.returns_table(report),
        tables.wins_table(report),
        tables.seeds_table(report),
    ]
    shown = tuple(table for table in found if table is not None)
    return Section("retention", "What they keep", text, (plots.returns_plot(report),), shown)


def _costs(report: EvaluationReport) -> Section:
    text = f"Exact counts from the layer widths. {report.cost.convention[0].upper()}"
    text += f"{report.cost.convention[1:]}. Elementwise operations are counted on their own."
    found = [
        cost_tables.cost_table(report),
        cost_tables.memory_table(report),
        cost_tables.prediction_table(report),
        cost_tables.network_table(report),
    ]
    shown = tuple(table for table in found if table is not None)
    return Section("cost", "What they cost", text, (plots.cost_plot(report),), shown)


def _timed(report: LatencyReport) -> Section:
    made = f", C by {report.compiler}" if report.compiler else ""
    text = (
        f"Measured on {report.machine.processor}{made}, one thread, every engine in turn in one "
        f"run. A step is {report.convention}. Deadlines care for the tail, not for the mean."
    )
    return Section("time", "How long they take", text, (), (cost_tables.latency_table(report),))


def _rounded(report: QuantisationReport) -> Section:
    text, shown = quantisation_summary(report), quantisation_table(report)
    return Section("quantisation", "What eight bits cost", text, (), (shown,))


def _actions(report: EvaluationReport) -> Section:
    text = (
        "Share of each action at each step, over all evaluation episodes, darker is more often. "
        "Each policy is shown on the episodes that it played itself."
    )
    found = tables.agreement_table(report)
    shown = () if found is None else (found,)
    return Section(
        "actions", "How they act", text, (plots.heat_plot(report.action_frequency),), shown
    )


def _mixed(report: EvaluationReport) -> Section:
    text = (
        "One agent at a time changes places between the expert's team and the students'. Where a "
        "student among experts falls short, that agent lost something itself; where an expert "
        "among students restores the team, the agent was the weak link."
    )
    mixed, table = report.cross_play, tables.cross_table(report)
    figures = () if mixed is None else (plots.cross_plot(mixed),)
    return Section("mixed", "Mixed teams", text, figures, () if table is None else (table,))


_WIDTHS_FOLLOW = {
    "worth": "An agent's width follows what hidden units make of the blocks that it sees.",
    "gates": "Widths were learned, by gates on hidden units; shown is the team that costs most.",
}


def _budget(allocation: Allocation) -> Section:
    text = (
        "Predicted from widths and from figures of the device, never measured. "
        + _WIDTHS_FOLLOW[allocation.budget.allocate]
    )
    shown = (
        budget_tables.budget_table(allocation),
        budget_tables.block_importance_table(allocation),
        budget_tables.sources_table(allocation),
    )
    return Section("budget", "What they may cost", text, (), tuple(t for t in shown if t.rows))


def _training(folder: RunFolder, manifest: RunManifest) -> Section:
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


def _data(manifest: RunManifest, run: Path) -> list[Section]:
    """Return the section about the dataset, where it is at hand and still the same."""
    try:
        buffer = open_dataset(manifest, run, None)
        by_split, by_noise = returns_by_split(buffer), returns_by_noise(buffer)
    except KdOfflineError:
        return []
    text = (
        "Returns of the recorded episodes, and how often their agents took each action. For more, "
        f"run {command_text('inspect', buffer.where, html='dataset.html')}."
    )
    drawn = dataset_plots.returns_plot(by_split, by_noise)
    shown = dataset_tables.taken_table(buffer.manifest)
    return [Section("data", "What they learned from", text, (drawn,), (shown,))]
