"""``verify --replay`` and ``--relabel``: whether a dataset is what it says it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from kd_offline.cli import options
from kd_offline.cli.output import bar, show
from kd_offline.errors import CorruptDatasetError

if TYPE_CHECKING:
    from kd_offline.schemas.dataset import DatasetManifest, VerifyReport
    from kd_offline.schemas.replay import ArrayGap, RelabelReport, ReplayReport

Place: TypeAlias = "tuple[str, DatasetManifest]"
"""Address of a dataset and the manifest that all checks are of."""

Replay = Annotated[
    int | None,
    typer.Option(
        metavar="K", callback=options.at_least(1), help="Play K episodes again and compare."
    ),
]
Relabel = Annotated[
    int | None,
    typer.Option(
        metavar="K", callback=options.at_least(1), help="Ask the expert again about K episodes."
    ),
]
Experts = Annotated[
    list[str] | None,
    typer.Option(
        help="A recorded expert that is not bundled: its folder or LIBRARY:PLACE; repeatable."
    ),
]
Seed = Annotated[
    int,
    typer.Option(callback=options.at_least(0), help="Which episodes --replay and --relabel take."),
]


def replayed(
    report: VerifyReport,
    place: Place,
    episodes: int,
    seed: int,
    environment: str | None,
    quiet: bool,
) -> VerifyReport:
    """Return ``report`` with a replay; a damaged dataset is not replayed."""
    from kd_offline.datasets.reader import ExpertBuffer
    from kd_offline.recording.replay import replay

    def run(progress: Callable[[int], None]) -> ReplayReport:
        buffer = ExpertBuffer.open(*place)
        return replay(buffer, episodes, seed=seed, environment=environment, progress=progress)

    return _extended(report, "replay", run, episodes, quiet)


def relabelled(
    report: VerifyReport,
    place: Place,
    episodes: int,
    seed: int,
    asked: tuple[Sequence[str], Path | None, Sequence[str]],
    quiet: bool,
) -> VerifyReport:
    """Return ``report`` with the experts asked again; not if the dataset is damaged.

    ``asked`` are experts, the recipe of one of another library, and opponents that may play.
    """
    from kd_offline.datasets.reader import ExpertBuffer
    from kd_offline.recording.relabel import relabel

    experts, expert_recipe, opponents = asked

    def run(progress: Callable[[int], None]) -> RelabelReport:
        return relabel(
            ExpertBuffer.open(*place),
            episodes,
            experts=experts,
            expert_recipe=expert_recipe,
            opponents=opponents,
            seed=seed,
            progress=progress,
        )

    return _extended(report, "relabel", run, episodes, quiet)


def _extended(
    report: VerifyReport,
    name: str,
    run: Callable[[Callable[[int], None]], ReplayReport | RelabelReport],
    episodes: int,
    quiet: bool,
) -> VerifyReport:
    from kd_offline.schemas.dataset import Problem

    with bar(episodes, f"episodes, {name}", quiet) as shown:

        def progress(done: int) -> None:
            shown.update(done - shown.n)

        try:
            found = run(progress)
        except CorruptDatasetError as error:
            problems = (*report.problems, Problem(where=name, what=str(error)))
            return report.model_copy(update={"ok": False, "problems": problems})
    return report.model_copy(update={"ok": report.ok and found.ok, name: found})


def tell(report: VerifyReport) -> None:
    """Print what a replay and the experts said."""
    if report.replay is not None:
        _tell_replay(report.replay)
    if report.relabel is not None:
        _tell_relabel(report.relabel)


def _tell_replay(found: ReplayReport) -> None:
    size = f"{found.episodes:,} episodes, {found.steps:,} steps of {found.environment}"
    if found.ok:
        how = "bit for bit" if found.exact else f"within {found.tolerance:g}"
        show(f"replay: {size} came out as recorded, {how}")
        return
    show(f"replay: {size} did not come out as recorded; first, {found.first}")
    if found.version != found.recorded_version:
        show(f"  recorded with version {found.recorded_version}, here is {found.version}")
    _tell_gaps(found.arrays)


def _tell_relabel(found: RelabelReport) -> None:
    for expert in found.experts:
        same = "the recorded weights" if expert.same else "NOT the recorded weights"
        show(f"relabel: expert {expert.id} is {expert.reference}, {same}")
    size = f"{found.episodes:,} episodes, {found.steps:,} steps"
    verdict = "labelled as recorded" if found.ok else f"labelled differently; first, {found.first}"
    show(f"relabel: {size} {verdict}")
    if found.policy is not None:
        kl = found.policy
        show(f"  KL of the policy: mean {kl.mean_kl:.3g}, largest {kl.max_kl:.3g} nats")
    _tell_gaps(found.arrays)


def _tell_gaps(arrays: dict[str, ArrayGap]) -> None:
    width = max(map(len, arrays), default=0)
    for name, gap in arrays.items():
        error = "not finite" if gap.max_error is None else f"{gap.max_error:.3g}"
        verdict = "ok" if gap.ok else f"{gap.outside:,} rows outside the tolerance"
        show(f"  {name:<{width}}  largest error {error}, {verdict}")
