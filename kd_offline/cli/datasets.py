"""``inspect`` and ``verify``: what a dataset holds and whether it is whole.

``verify --replay`` and ``--relabel`` also tell whether it is what it says it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from kd_offline.cli import options, trust
from kd_offline.cli.output import emit, say_error, show, table, terminal, warn
from kd_offline.errors import EXIT_FAILED, EXIT_SUSPECT, CorruptDatasetError

if TYPE_CHECKING:
    from kd_offline.datasets.reading.reader import ExpertBuffer
    from kd_offline.schemas.audit import AuditReport
    from kd_offline.schemas.blind_spots import BlindSpots
    from kd_offline.schemas.dataset import DatasetManifest, VerifyReport
    from kd_offline.schemas.replay import ArrayGap, RelabelReport, ReplayReport
    from kd_offline.tracking.base import Observer


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(
        epilog=options.examples(
            "kd-offline inspect dataset.zarr",
            "kd-offline inspect dataset.zarr --json",
            "kd-offline inspect dataset.zarr --html dataset.html",
            "kd-offline inspect dataset.zarr --blind-spots",
        )
    )(inspect)
    app.command(
        epilog=options.examples(
            "kd-offline verify dataset.zarr",
            "kd-offline verify dataset.zarr --quick --json",
            "kd-offline verify dataset.zarr --signature --public-key alice.pub",
            "kd-offline verify dataset.zarr --replay 100 --relabel 100",
            "kd-offline verify dataset.zarr --relabel 100 --expert expert/",
            "kd-offline verify dataset.zarr --audit",
        )
    )(verify)


def inspect(
    dataset: options.Dataset,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with plots and playback to this file.")
    ] = None,
    blind_spots: Annotated[
        bool,
        typer.Option("--blind-spots", help="Show where the expert is weak or was rarely recorded."),
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show what a dataset holds.

    Reads only the manifest; if there are several experts, also some episodes of each. With --html
    it reads every step once, with --blind-spots a sample. Needs no environment and no expert.
    """
    from kd_offline.datasets.metadata.summary import render, summarise
    from kd_offline.datasets.reading.reader import ExpertBuffer

    buffer = ExpertBuffer.open(dataset)
    if html is not None:
        _write_page(buffer, html, overwrite, quiet)
    weak = _blind_spots(buffer) if blind_spots else None
    if json:
        emit(summarise(buffer).model_copy(update={"blind_spots": weak}))
        return
    show(*render(buffer) if html is None else [html])
    if weak is not None:
        _tell_blind_spots(weak)


def _blind_spots(buffer: ExpertBuffer) -> BlindSpots:
    from kd_offline.datasets.analysis.blind_spots import blind_spots

    return blind_spots(buffer)


def _tell_blind_spots(spots: BlindSpots) -> None:
    from kd_offline.reports.blind_spots import region_in_words

    show("", f"blind spots  {spots.decisions:,} decisions in {spots.episodes:,} episodes")
    rows = []
    for region in spots.regions:
        places = (f"episode {place.episode} step {place.step}" for place in region.places[:2])
        words = region_in_words(region.columns)
        of = (f"{region.decisions:,} decisions", f"look at {', '.join(places)}")
        rows.append((f"  {region.why}", region.agent, words, *of))
    show(*(table(rows) if rows else []))
    show(*(f"  {note}" for note in spots.notes))


def _write_page(buffer: ExpertBuffer, html: Path, overwrite: bool, quiet: bool) -> None:
    from kd_offline.reports.dataset import inspect_html

    inspect_html(buffer, html, overwrite=overwrite, observers=[terminal()])


def verify(
    dataset: options.Dataset,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check only the files, without decoding values.")
    ] = False,
    check_signature: trust.CheckSignature = False,
    signature: trust.SignatureFile = None,
    allowed_signers: trust.AllowedSigners = None,
    public_key: trust.PublicKey = None,
    replay: Replay = None,
    relabel: Relabel = None,
    experts: Experts = None,
    expert_recipe: options.ExpertRecipe = None,
    opponents: options.RecordedOpponents = None,
    environment: options.RecordedEnvironment = None,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="Look for labels that somebody changed on purpose (poison)."),
    ] = False,
    seed: Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Check a dataset against its digests, the format, its environment and its expert.

    Checks every file, checksum, content digest and rule of the format. --replay and --relabel also
    check that environment and expert reproduce the recording. If a check fails, the exit code is 1.
    --audit compares the parts of a dataset with each other; with findings, the exit code is 4.
    """
    from kd_offline.datasets.storage.manifest_file import read_manifest
    from kd_offline.datasets.storage.sources import open_files
    from kd_offline.datasets.validation.integrity import unusable_manifest_report
    from kd_offline.datasets.validation.integrity import verify as check

    signed = None
    try:
        # Every check is of this one manifest: a server may show another when it is asked again.
        manifest = read_manifest(open_files(dataset, cached=False))
    except CorruptDatasetError as error:
        report = unusable_manifest_report(error)
    else:
        signed = trust.checked_signature(
            *(dataset, check_signature, signature, allowed_signers, public_key), manifest
        )
        report = check(dataset, quick=quick, manifest=manifest)
        report = report.model_copy(update={"signature": signed})
        place = (dataset, manifest)
        if replay is not None:
            report = replayed(report, place, replay, seed, environment)
        if relabel is not None:
            asked = (experts or (), expert_recipe, opponents or ())
            report = relabelled(report, place, relabel, seed, asked)
        if audit:
            report = audited(report, place, seed)
    if json:
        emit(report)
        if not report.ok:
            raise typer.Exit(EXIT_FAILED)
        if report.audit is not None and not report.audit.ok:
            raise typer.Exit(EXIT_SUSPECT)
        return
    tell(report, dataset)
    if report.ok:
        if signed is not None:
            show(f"signed by {signed.signer} ({signed.key_type} {signed.fingerprint})")
        show("whole: every check passed" if not quick else "whole: the files are right")
        if report.audit is not None and not report.audit.ok:
            warn(
                f"{dataset} may be poisoned: look at the decisions above before you distil from it"
            )
            raise typer.Exit(EXIT_SUSPECT)
        return
    for problem in report.problems:
        show(f"{problem.where}: {problem.what}")
    found = len(report.problems)
    say_error(
        f"{found} problem{'s' * (found != 1)} in {dataset}: get a fresh copy"
        if found
        else f"{dataset} does not hold what was recorded: ask its makers"
    )
    raise typer.Exit(EXIT_FAILED)


Place: TypeAlias = "tuple[str, DatasetManifest]"
"""Address of a dataset and the manifest that all checks are of."""

Replay = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        callback=options.at_least(1),
        help="Play K episodes again in the environment and compare.",
    ),
]
Relabel = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        callback=options.at_least(1),
        help="Compute the expert's outputs for K episodes again and compare.",
    ),
]
Experts = Annotated[
    list[str] | None,
    typer.Option(
        "--expert",
        help="A recorded expert that is not bundled: its folder or LIBRARY:PATH; repeatable.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        callback=options.at_least(0),
        help="Seed that chooses the episodes of --replay, --relabel and --audit.",
    ),
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


def audited(report: VerifyReport, place: Place, seed: int) -> VerifyReport:
    """Return ``report`` with an audit, whose findings are no problems; not of damaged values."""
    from kd_offline.datasets.analysis.poison import audit_dataset
    from kd_offline.datasets.reading.reader import ExpertBuffer

    return _extended(
        report,
        "audit",
        lambda observers: audit_dataset(ExpertBuffer.open(*place), seed=seed, observers=observers),
    )


def _extended(
    report: VerifyReport,
    name: str,
    run: Callable[[list[Observer]], ReplayReport | RelabelReport | AuditReport],
) -> VerifyReport:
    from kd_offline.schemas.dataset import Problem

    try:
        found = run([terminal()])
    except CorruptDatasetError as error:
        problems = (*report.problems, Problem(where=name, what=str(error)))
        return report.model_copy(update={"ok": False, "problems": problems})
    ok = report.ok and (found.ok or name == "audit")
    return report.model_copy(update={"ok": ok, name: found})


def tell(report: VerifyReport, dataset: str) -> None:
    """Print what a replay, the experts and an audit said."""
    if report.audit is not None:
        _tell_audit(report.audit, dataset)
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


_FINDINGS = 8  # that are printed
_AUDIT_WORDS = {
    "actions": "actions were unlikely under the policy that is said to have drawn them",
    "outputs": "labels contradict the embedding beside them",
    "labels": "labels are far from what the other parts lead to expect",
    "embeddings": "embeddings are far from what the other parts lead to expect",
    "patterns": "labels are unusual where an observation holds one exact value",
}


def _tell_audit(report: AuditReport, dataset: str) -> None:
    from kd_offline.commands import command_text

    found = len(report.findings) + report.left_out
    show(
        f"audit: {report.episodes:,} episodes in {report.sources} parts, {found} "
        f"finding{'s' * (found != 1)}; false alarms are below {report.level:.1%}"
    )
    for finding in report.findings[:_FINDINGS]:
        first, stop = finding.episodes
        of = "".join(f", {part}" for part in (finding.agent, finding.where) if part)
        mostly = f", mostly {finding.action}" if finding.action else ""
        show(
            f"  episodes {first} to {stop - 1} of expert {finding.expert}{of}: {finding.count:,} "
            f"of {finding.of:,} {_AUDIT_WORDS[finding.check]}{mostly} "
            f"({finding.expected:,.1f} usual, p below 1e{finding.log10_p:.0f})"
        )
        places = (f"episode {x.episode} step {x.step} {x.agent}" for x in finding.places[:3])
        if finding.places:
            show(f"    look at {'; '.join(places)}")
    if found > _FINDINGS:
        show(f"  and {found - _FINDINGS} weaker ones")
    if report.keep is not None:
        command = command_text("filter", dataset, output="clean.zarr", where=report.keep)
        show(f"  without these episodes: {command}")
    for name, check in report.checks.items():
        if check.note:
            show(f"  {name}: {check.note}")


def _tell_gaps(arrays: dict[str, ArrayGap]) -> None:
    width = max(map(len, arrays), default=0)
    for name, gap in arrays.items():
        error = "not finite" if gap.max_error is None else f"{gap.max_error:.3g}"
        verdict = "ok" if gap.ok else f"{gap.outside:,} rows outside the tolerance"
        show(f"  {name:<{width}}  largest error {error}, {verdict}")
