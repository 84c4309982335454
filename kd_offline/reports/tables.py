"""Tables of a report as plain cells, which HTML and Markdown print alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kd_offline.reports.formatting import duration, interval, number, percent, short, whole
from kd_offline.runs.judged import judged
from kd_offline.schemas.evaluation import (
    Estimate,
    EvaluationReport,
    ModeScore,
    SideScore,
)
from kd_offline.schemas.run import RunManifest


@dataclass(frozen=True, slots=True)
class Table:
    """A caption, column heads (units included) and rows; the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    links: Mapping[str, str] = field(default_factory=dict)
    """First cell of a row -> address that it links to on a page."""


def table(
    caption: str,
    columns: str | Iterable[str],
    rows: Iterable[tuple[str, ...]],
    links: Mapping[str, str] | None = None,
) -> Table:
    """Return a table; ``columns`` are headings, or one string in which ``|`` separates them."""
    headings = columns.split("|") if isinstance(columns, str) else columns
    return Table(caption, tuple(headings), tuple(rows), links or {})


def modes_of(report: EvaluationReport) -> dict[str, ModeScore]:
    """Return the scores of the modes that were played."""
    modes = {"greedy": report.greedy, "sampled": report.sampled}
    return {name: mode for name, mode in modes.items() if mode is not None}


def returns_table(report: EvaluationReport) -> Table:
    """Return the mean return of every policy, by mode and side."""
    rows = []
    for mode, score in modes_of(report).items():
        rows += [(f"{mode}, {name}", *cells) for name, cells in _policies(score)]
        if len(score.sides) > 1:
            for side, part in score.sides.items():
                rows += [(f"{mode}, {side}: {name}", *cells) for name, cells in _policies(part)]
    return table(
        "Return: sum of rewards over agents and steps of an episode",
        "play and policy|mean return|95 % interval",
        rows,
    )


def _policies(score: ModeScore | SideScore) -> list[tuple[str, tuple[str, str]]]:
    estimates = {
        "expert": score.expert,
        "mask ceiling": score.ceiling,
        "students": score.student,
        "random": score.random,
    }
    return [(name, (number(e.mean), interval(e))) for name, e in estimates.items() if e is not None]


def retention_table(report: EvaluationReport) -> Table:
    """Return the retentions, by mode and side."""
    rows = []
    for mode, score in modes_of(report).items():
        rows += _retention_rows(mode, score)
        if len(score.sides) > 1:
            for side, part in score.sides.items():
                rows += _retention_rows(f"{mode}, {side}", part)
    return table("Retention", "play and yardstick|kept|95 % interval, %", rows)


def _retention_rows(name: str, score: ModeScore | SideScore) -> list[tuple[str, ...]]:
    points, ends = score.retention, score.retention_intervals
    rows = [("the expert's gain over random", points.normalised, ends.normalised)]
    if points.of_ceiling is not None:
        rows.append(("the mask ceiling's gain over random", points.of_ceiling, ends.of_ceiling))
    if points.ratio is not None:
        rows.append(("the expert's win rate", points.ratio, ends.ratio))
    return [
        (f"{name}, of {reference}", percent(point), interval(end, share=True))
        for reference, point, end in rows
    ]


def wins_table(report: EvaluationReport) -> Table | None:
    """Return the win rates; None where the task has no wins."""
    rows = []
    for mode, score in modes_of(report).items():
        if score.win_rate is not None:
            rates: Mapping[str, Estimate | None] = dict(score.win_rate)
            rows += [
                (f"{mode}, {name}", percent(rate.mean), interval(rate, share=True))
                for name, rate in rates.items()
                if rate is not None
            ]
    if not rows:
        return None
    return table("Win rate", "play and policy|won|95 % interval, %", rows)


def seeds_table(report: EvaluationReport) -> Table:
    """Return the mean return and the retention of each distillation seed."""
    modes = modes_of(report)
    rows = []
    for k, seed in enumerate(report.distillation_seeds):
        cells = [str(seed)]
        for score in modes.values():
            seed_score = score.seeds[k]
            cells += [number(seed_score.mean), percent(seed_score.normalised)]
        rows.append(tuple(cells))
    headings = "|".join(f"{mode} return|{mode} kept" for mode in modes)
    return table("Each distillation seed", f"seed|{headings}", rows)


def agreement_table(report: EvaluationReport) -> Table | None:
    """Return how often each agent's student chooses the expert's action; None if not measured."""
    scores = [s for s in modes_of(report).values() if s.agreement is not None]
    if not scores or scores[0].agreement is None:
        return None
    agreement = scores[0].agreement
    rows = [
        (agent, percent(share), f"{agreement.kl[agent]:.3f}")
        for agent, share in agreement.agents.items()
    ]
    rows.append(("all agents", percent(agreement.action), "\N{EN DASH}"))
    team_row = "whole team at once" if len(scores[0].sides) == 1 else "whole side at once"
    rows.append((team_row, percent(agreement.joint), "\N{EN DASH}"))
    return table(
        "Agreement on the views that the students' own play visits",
        "agent|same greedy action|KL(expert, student), nats",
        rows,
    )


def cross_table(report: EvaluationReport) -> Table | None:
    """Return the retention of mixed teams; None where they were not played."""
    cross_play = report.cross_play
    if cross_play is None:
        return None
    rows = [
        (
            agent,
            percent(None if student_swap is None else student_swap.mean),
            interval(student_swap, share=True),
            percent(None if expert_swap is None else expert_swap.mean),
            interval(expert_swap, share=True),
        )
        for agent, student_swap, expert_swap in zip(
            cross_play.agents,
            cross_play.student_among_experts,
            cross_play.expert_among_students,
            strict=True,
        )
    ]
    headings = "agent|its student among experts|95 % interval, %|its expert among students|"
    return table(
        "Mixed teams, greedy: kept of the expert's gain", headings + "95 % interval, %", rows
    )


def training_table(manifest: RunManifest) -> Table:
    """Return updates, best epoch, held-out metrics, time and digest of each distillation seed."""
    names = sorted({name for result in manifest.results for name in result.held_out})
    rows = [
        (
            str(r.seed),
            whole(r.updates),
            "\N{EN DASH}" if r.best_epoch is None else str(r.best_epoch),
            *(f"{r.held_out[n]:.4f}" if n in r.held_out else "\N{EN DASH}" for n in names),
            duration(r.seconds),
            short(r.digest),
        )
        for r in manifest.results
    ]
    headings = ["seed", "updates", "best epoch", *(f"held-out {n}" for n in names)]
    headings += ["time", "digest of the weights"]
    return table(f"Training: {judged(manifest)}", headings, rows)


def students_table(manifest: RunManifest) -> Table:
    """Return width and parameters of each agent's student during training."""
    rows = [
        (student.agent, str(student.hidden), whole(student.parameters))
        for student in manifest.students
    ]
    return table("Students as trained, all columns kept", "agent|width|parameters", rows)


def provenance_table(manifest: RunManifest) -> Table:
    """Return the software and the machine of a run."""
    provenance, machine = manifest.provenance, manifest.provenance.machine
    changed = " with local changes" if provenance.git_modified else ""
    memory = machine.memory_bytes
    facts = {
        "started": manifest.timing.started,
        "took": duration(manifest.timing.seconds),
        "kd-offline": provenance.kd_offline,
        "revision": provenance.git_revision and provenance.git_revision[:12] + changed,
        "Python": provenance.python,
        **provenance.packages,
        "device": provenance.device,
        "CPU capability": provenance.cpu_capability,
        "threads": provenance.threads and str(provenance.threads),
        "machine": f"{machine.system} {machine.architecture}, {machine.processor}, "
        f"{machine.cores} cores",
        "memory": memory and f"{memory / 2**30:.0f} GiB",
    }
    return table("Software and machine", "what|value", [(k, v) for k, v in facts.items() if v])


def _training(manifest: RunManifest) -> str:
    """Return how students went on after the distillation; empty where they did not."""
    if manifest.training is None:
        return ""
    steps = [int(str(recipe.get("frames", 0))) for recipe in manifest.training]
    return f"by proximal policy distillation, {max(steps, default=0):,} joint steps a seed"


def source_table(manifest: RunManifest, report: EvaluationReport | None) -> Table:
    """Return the dataset, the expert and the policies of each side."""
    settings = ", ".join(f"{k} = {v}" for k, v in manifest.environment_kwargs.items())
    facts = {
        "dataset": manifest.dataset.name,
        "dataset id": manifest.dataset.id,
        "environment": manifest.environment,
        "environment settings": settings,
        "recorded expert": manifest.expert_reference,
        "digest of its weights": manifest.expert,
        "mask": manifest.mask,
        "method": manifest.method,
        "trained on": _training(manifest),
    }
    if report is not None:
        facts |= {
            "expert played": report.expert,
            "mask ceiling": report.ceiling_policy or "",
            "opponents": ", ".join(f"{k} against {v}" for k, v in report.opponents.items()),
        }
    return table("Dataset and policies", "what|value", [(k, v) for k, v in facts.items() if v])
