"""``verify --replay`` and ``--relabel``: whether a dataset is what it says it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from kd_offline.cli import options
from kd_offline.cli.output import show, terminal
from kd_offline.errors import CorruptDatasetError

if TYPE_CHECKING:
    from kd_offline.schemas.dataset import DatasetManifest, VerifyReport
    from kd_offline.schemas.replay import ArrayGap, RelabelReport, ReplayReport
    from kd_offline.tracking.base import Observer

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
) -> VerifyReport:
    """Return ``report`` with a replay; a damaged dataset is not replayed."""
    from kd_offline.datasets.reading.reader import ExpertBuffer
    from kd_offline.recording.replay import replay

    def run(observers: list[Observer]) -> ReplayReport:
        buffer = ExpertBuffer.open(*place)
        return replay(buffer, episodes, seed=seed, environment=environment, observers=observers)

    return _extended(report, "replay", run)


def relabelled(
    report: VerifyReport,
    place: Place,
    episodes: int,
    seed: int,
    asked: tuple[Sequence[str], Path | None, Sequence[str]],
) -> VerifyReport:
    """Return ``report`` with the experts asked again; not if the dataset is damaged.

    ``asked`` are experts, the recipe of one of another library, and opponents that may play.
    """
    from kd_offline.datasets.reading.reader import ExpertBuffer
    from kd_offline.recording.relabel import relabel

    experts, expert_recipe, opponents = asked

    def run(observers: list[Observer]) -> RelabelReport:
        return relabel(
            ExpertBuffer.open(*place),
            episodes,
            experts=experts,
            expert_recipe=expert_recipe,
            opponents=opponents,
            seed=seed,
            observers=observers,
        )

    return _extended(report, "relabel", run)


def _extended(
    report: VerifyReport,
    name: str,
    run: Callable[[list[Observer]], ReplayReport | RelabelReport],
) -> VerifyReport:
    from kd_offline.schemas.dataset import Problem

    try:
        found = run([terminal()])
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
