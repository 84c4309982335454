"""``profile``: one document that travels with a team and says what it is, does and needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import kd_offline
from kd_offline.deployment.agents import agents
from kd_offline.deployment.caveats import limits
from kd_offline.deployment.document import place, read_file_of_profile
from kd_offline.deployment.metrics import Play, measured
from kd_offline.deployment.roles import clusters
from kd_offline.deployment.team import Team, load_team
from kd_offline.errors import CheckpointError, FormatVersionError, StorageError, UsageError
from kd_offline.files import MAX_DOCUMENT_BYTES, check_output, read_file, write_output
from kd_offline.schemas.collaboration import (
    CollaborationProfile,
    Digests,
    ExportFacts,
    Groups,
    HiddenState,
)
from kd_offline.sealed_json import digest, sealed_text
from kd_offline.tracking.base import Observer


def collaboration_profile(
    run: str | Path,
    output: str | Path | None = None,
    *,
    export: str | Path | None = None,
    episodes: int | None = None,
    engine: str | None = None,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    dataset: str | Path | None = None,
    environment: str | None = None,
    opponents: Sequence[str] = (),
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> CollaborationProfile:
    """Write the profile of a distilled team.

    It is put together from what the run's folder holds; what is not there is named, with the
    command that makes it.

    Parameters
    ----------
    run : path
        A complete run folder.
    output : path, optional
        File to write. Default: ``profile.json`` in the export's folder, or in the run's, where an
        earlier profile is replaced.
    export : path, optional
        An export of the run that the profile is about; else it is about the run's first team.
    episodes : int, optional
        Play what is missing on so many evaluation episodes: everything, which writes
        ``evaluation.json``, or mixed teams alone. Default: nothing is played.
    engine : str, optional
        What runs an export that is played.
    expert, expert_recipe : path, optional
        Where the recorded expert is, as for ``evaluate``.
    dataset : path, optional
        Where the run's dataset is, for role clusters. Default: where the run says, if it is there
        and on this machine.
    environment, opponents : optional
        What may be played although a file names it, as for ``evaluate``.
    overwrite : bool
        Replace a file that is at ``output``; mixed teams in a profile of the same team are kept.
    observers : sequence of Observer
        Told how many rollouts are done.

    Raises
    ------
    UsageError, CheckpointError, MismatchError
        The run, the export or the expert cannot be used, or was altered.
    StorageError
        There is a file at ``output`` already, or something else than a profile in its default
        place.
    """
    if episodes is not None and episodes < 1:
        msg = f"cannot play {episodes} episodes: give 1 or more, or leave it out to play none"
        raise UsageError(msg)
    team = load_team(run, export)
    target = place(run, output, export)
    check_output(target, overwrite=overwrite or output is None)
    earlier = _earlier(target, team, overwrite)
    play = Play(*(episodes, engine, expert, expert_recipe, environment, opponents, observers))
    found = measured(team, play, None if earlier is None else earlier.cross_play)
    groups = Groups(sides=team.student.card.environment.sides, clusters=clusters(team, dataset))
    spec = team.student.card.environment
    profile = CollaborationProfile(
        made_with=kd_offline.__version__,
        environment=spec.id,
        environment_kwargs=spec.kwargs,
        episode_limit=spec.episode_limit,
        method=team.manifest.method,
        mask=team.manifest.mask,
        agents=agents(team),
        groups=groups,
        hidden_state=HiddenState(agents=tuple(a.agent for a in team.contracts if a.memory)),
        digests=_digests(team),
        export=_export(team),
        envelope=found.envelope,
        cross_play=found.cross_play,
        limits=limits(team, found, groups),
    )
    write_output(target, sealed_text(profile, nulls=False), overwrite=overwrite or output is None)
    return profile


def _earlier(target: Path, team: Team, overwrite: bool) -> CollaborationProfile | None:
    """Return the profile that will be replaced, if it is of the same team.

    Raises
    ------
    StorageError
        Something else is there and may not be replaced.
    """
    if not target.exists():
        return None
    try:
        found = read_file_of_profile(target)
    except (CheckpointError, StorageError, FormatVersionError) as error:
        if overwrite:
            return None
        msg = f"{target} exists and is not a profile: give another path or pass --overwrite"
        raise StorageError(msg) from error
    return found if found.digests == _digests(team) else None


def _digests(team: Team) -> Digests:
    from kd_offline.exports.engines import MANIFEST
    from kd_offline.runs.folder import RUN

    export = None if team.folder is None else _sha256(team.folder / MANIFEST)
    return Digests(
        students={str(result.seed): result.digest for result in team.manifest.results},
        dataset=team.manifest.dataset.id,
        expert=team.manifest.expert,
        run=_sha256(team.run.path / RUN),
        export=export,
    )


def _sha256(file: Path) -> str:
    return digest(read_file(file, MAX_DOCUMENT_BYTES))


def _export(team: Team) -> ExportFacts | None:
    if team.export is None:
        return None
    return ExportFacts(
        formats=team.export.formats,
        precision=team.export.precision,
        seed=team.export.seed,
        recorded_agreement=team.export.gate.precision.agreement,
        recorded_part=team.export.gate.part,
        cores=team.export.microcontrollers,
    )
