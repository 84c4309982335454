"""``profile``: write one document about a team: its agents, measurements and requirements.

It holds each agent's interface and cost, role clusters of the expert's embeddings, measurements,
and caveats that name what was not measured and the command that would measure it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import kd_offline
from kd_offline.commands import command_text
from kd_offline.deployment.document import profile_path, read_file_of_profile
from kd_offline.deployment.metrics import Measurements, PlaySettings, collect
from kd_offline.deployment.team import Team, load_team
from kd_offline.errors import CheckpointError, FormatVersionError, Remedy, StorageError, UsageError
from kd_offline.files import MAX_DOCUMENT_BYTES, check_output, read_file, write_output
from kd_offline.runs.folder import recipe_of
from kd_offline.runs.judged import judged
from kd_offline.schemas.collaboration import (
    AgentProfile,
    CollaborationProfile,
    Digests,
    ExportFacts,
    Groups,
    HiddenState,
    Limit,
    ObservationBlock,
    Played,
    Robustness,
    RoleClusters,
)
from kd_offline.schemas.evaluation import AgentCost
from kd_offline.schemas.export import AgentContract
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
    """Write the profile of a distilled team and return it.

    It is assembled from the files of the run's folder. What is missing is named in it, with the
    command that measures it.

    Parameters
    ----------
    run : path
        A complete run folder.
    output : path, optional
        File to write. Default: ``profile.json`` in the export's folder, or in the run's, where an
        earlier profile is replaced.
    export : path, optional
        An export of the run that the profile describes; by default the run's first team.
    episodes : int, optional
        Play what is missing on this number of evaluation episodes: an evaluation, which writes
        ``evaluation.json``, or mixed teams alone. Default: nothing is played.
    engine : str, optional
        Engine of an export that is played.
    expert, expert_recipe : path, optional
        Where the recorded expert is, as for ``evaluate``.
    dataset : path, optional
        Where the run's dataset is, for role clusters. Default: the path that the run states, if it
        is there and on this machine.
    environment, opponents : optional
        What may be played although a file names it, as for ``evaluate``.
    overwrite : bool
        Replace a file that is at ``output``; mixed teams in a profile of the same team are kept.
    observers : sequence of Observer
        They receive the number of finished rollouts.

    Raises
    ------
    UsageError, CheckpointError, MismatchError
        The run, the export or the expert cannot be used, or was altered.
    StorageError
        There is a file at ``output`` already, or something else than a profile at its default
        path.
    """
    if episodes is not None and episodes < 1:
        msg = f"cannot play {episodes} episodes: give 1 or more, or leave it out to play none"
        raise UsageError(msg)
    team = load_team(run, export)
    target = profile_path(run, output, export)
    check_output(target, overwrite=overwrite or output is None)
    former = _former_profile(target, team, overwrite)
    settings = PlaySettings(
        *(episodes, engine, expert, expert_recipe, environment, opponents, observers)
    )
    measurements = collect(team, settings, None if former is None else former.cross_play)
    groups = Groups(sides=team.student.card.environment.sides, clusters=clusters(team, dataset))
    spec = team.student.card.environment
    profile = CollaborationProfile(
        made_with=kd_offline.__version__,
        environment=spec.id,
        environment_kwargs=spec.kwargs,
        episode_limit=spec.episode_limit,
        method=team.run.manifest.method,
        mask=team.run.manifest.mask,
        agents=agents(team),
        groups=groups,
        hidden_state=HiddenState(agents=tuple(a.agent for a in team.contracts if a.memory)),
        digests=_digests(team),
        export=_export(team),
        envelope=measurements.envelope,
        cross_play=measurements.cross_play,
        limits=caveats(team, measurements, groups),
    )
    write_output(target, sealed_text(profile, nulls=False), overwrite=overwrite or output is None)
    return profile


def _former_profile(target: Path, team: Team, overwrite: bool) -> CollaborationProfile | None:
    """Return the profile that will be replaced, if it describes the same team; else None.

    Raises
    ------
    StorageError
        Something else is there and may not be replaced.
    """
    if not target.exists():
        return None
    try:
        profile = read_file_of_profile(target)
    except (CheckpointError, StorageError, FormatVersionError) as error:
        if overwrite:
            return None
        msg = f"{target} exists and is not a profile"
        remedies = Remedy("give another path"), Remedy("pass", overwrite=True)
        raise StorageError(msg, *remedies) from error
    return profile if profile.digests == _digests(team) else None


def _digests(team: Team) -> Digests:
    from kd_offline.exports.engines import MANIFEST
    from kd_offline.runs.folder import RUN

    export = None if team.folder is None else _sha256(team.folder / MANIFEST)
    return Digests(
        students={str(result.seed): result.digest for result in team.run.manifest.results},
        dataset=team.run.manifest.dataset.id,
        expert=team.run.manifest.expert,
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


def agents(team: Team) -> tuple[AgentProfile, ...]:
    """Return the profile of each agent of a team."""
    spec = team.student.card.environment
    sides = {agent: side for side, members in spec.sides.items() for agent in members}
    return tuple(
        AgentProfile(
            side=sides[contract.agent],
            contract=contract,
            blocks=_blocks(contract, spec.blocks[contract.agent]),
            cost=cost,
        )
        for contract, cost in zip(team.contracts, _costs(team), strict=True)
    )


def _costs(team: Team) -> tuple[AgentCost, ...]:
    """Return the cost of a decision of each agent."""
    from kd_offline.evaluation.cost import team_cost
    from kd_offline.evaluation.evaluation_setup import student_shapes

    spec = team.student.card.environment
    shapes = student_shapes(team.student)
    return team_cost(spec.agents, shapes, [0.0] * spec.n_agents, 0.0, spec.episode_limit).agents


def _blocks(
    contract: AgentContract, blocks: dict[str, tuple[tuple[int, int], ...]]
) -> tuple[ObservationBlock, ...]:
    observation_blocks = []
    for name, ranges in sorted(blocks.items(), key=lambda item: item[1]):
        width = sum(stop - start for start, stop in ranges)
        seen = contract.blocks.get(name, ())
        visibility = "seen" if len(seen) == width else "partly seen" if seen else "hidden"
        observation_blocks.append(
            ObservationBlock(
                name=name,
                ranges=ranges,
                width=width,
                seen=seen,
                visibility="drawn for each episode" if contract.drawn else visibility,
            )
        )
    return tuple(observation_blocks)


def caveats(team: Team, measurements: Measurements, groups: Groups) -> tuple[Limit, ...]:
    """Return the caveats of a profile: its scope, and what was not measured."""
    played = measurements.envelope.played
    return (
        *_scope_caveats(team),
        *(() if played is None else _play_caveats(team, played)),
        *_robustness_caveats(team, measurements.envelope.robustness),
        *_unmeasured_caveats(team, measurements),
        *_role_caveats(team, groups),
    )


def _scope_caveats(team: Team) -> Iterator[Limit]:
    spec = team.student.card.environment
    settings = ", ".join(f"{name}={value}" for name, value in spec.kwargs.items())
    yield Limit(
        topic="scope",
        text=f"every figure is of {spec.id} {spec.version} with "
        f"{settings or 'its default settings'}: nothing was measured elsewhere",
    )


def _play_caveats(team: Team, played: Played) -> Iterator[Limit]:
    yield _mask_caveat(team, played)
    yield Limit(topic="agreement", text=_agreement_text(team, played))
    if len(played.seeds) == 1:
        yield Limit(
            topic="seeds",
            text="one team played, so the intervals say nothing about another distillation seed",
        )
    if team.export is not None and played.who == "students":
        yield Limit(
            topic="scope",
            text=f"returns are of the trained students of the seeds {_list(played.seeds)}; the "
            f"{team.export.precision} export of seed {team.export.seed} did not play itself",
            command=command_text("evaluate", "RUN", export="EXPORT", cross_play=True),
        )


def _robustness_caveats(team: Team, robustness: Robustness | None) -> Iterator[Limit]:
    if robustness is None:
        text = "what the students tolerate, from noise to a dead team-mate, was not measured"
        yield _not_measured(text, command_text("audit", "RUN"))
        return
    meaning = (
        f"tolerated means that {_percent(robustness.keep)} of the gain over random play is kept, "
        "by the lower end of the interval"
    )
    if robustness.mode == "sampled":
        meaning += ", with actions that are drawn"
    if team.export is not None and robustness.who == "students":
        yield Limit(
            topic="robustness",
            text=f"tolerances are those of the trained students; the {team.export.precision} "
            f"export of seed {team.export.seed} was not audited itself",
            command=command_text("audit", "RUN", export="EXPORT"),
        )
    if not robustness.tolerances:
        text = "what the students tolerate is undefined: unperturbed, they do not reach more than"
        yield Limit(topic="robustness", text=f"{text} random play beyond doubt")
    for row in robustness.tolerances:
        if not row.tolerated and row.exceeded is not None:
            text = f"{row.perturbation} is not tolerated even at {row.exceeded:g}, the weakest"
            text += " strength that was played"
        elif row.exceeded is None:
            text = f"{row.perturbation} is tolerated up to {row.tolerated:g}, the strongest that"
            text += " was played"
        else:
            text = f"{row.perturbation} is tolerated up to {row.tolerated:g} and not at"
            text += f" {row.exceeded:g}"
        text += f": {meaning}, and the strength is {row.unit}"
        yield Limit(topic="robustness", text=text)
    if (shared := robustness.failures) is not None:
        yield Limit(
            topic="robustness",
            text=f"all {len(shared.rates)} seeds fail in {_percent(shared.together.mean)} of the "
            f"same episodes, independent ones would in {_percent(shared.independent)}: several "
            "teams in a fleet may fail at once",
        )


def _agreement_text(team: Team, played: Played) -> str:
    if played.agreement is None:
        return "nobody has a choice of actions in play, so agreement with the expert is undefined"
    in_play = f"in {_percent(played.agreement)} of the decisions that their own play leads to"
    if played.held_out_agreement is None:
        return f"students choose what the expert would {in_play}; {judged(team.run.manifest)}"
    return (
        f"students choose what the expert would in {_percent(played.held_out_agreement)} of "
        f"recorded held-out decisions and {in_play}; the second is the one to rely on; "
        f"{judged(team.run.manifest)}"
    )


def _mask_caveat(team: Team, played: Played) -> Limit:
    mask = team.run.manifest.mask
    if mask == "full":
        return Limit(topic="mask", text="students see everything: no mask limits what they reach")
    score = played.greedy or played.sampled
    if score is None or score.ceiling is None:
        return Limit(
            topic="mask",
            text=f"the best that is possible under the mask {mask!r} was not measured, so how much "
            "of the loss is the mask's is not known",
            command=command_text("evaluate", "RUN", ceiling="CEILING"),
        )
    return Limit(
        topic="mask",
        text=f"a policy trained under the mask {mask!r} itself returns {score.ceiling.mean:.2f}, "
        f"the students {score.student.mean:.2f}, the expert, who sees everything, "
        f"{score.expert.mean:.2f}",
    )


def _unmeasured_caveats(team: Team, measurements: Measurements) -> Iterator[Limit]:
    played = measurements.envelope.played
    export = None if team.export is None else "EXPORT"
    evaluate = command_text("evaluate", "RUN", cross_play=True, export=export)
    if played is None:
        yield _not_measured("returns, agreement and the expert's cost were not measured", evaluate)
    else:
        for mode in ("greedy", "sampled"):
            if getattr(played, mode) is None:
                yield _not_measured(f"{mode} play was not measured", evaluate)
    if measurements.cross_play is None:
        yield _not_measured("teams mixed from experts and students were not played", evaluate)
    if measurements.envelope.latency is None:
        yield _not_measured("no engine was timed", "kd-offline bench latency RUN")
    elif team.export is not None and team.export.precision != "fp32":
        yield _not_measured(f"latencies are of float32, not of {team.export.precision}", None)
    if team.export is None:
        yield from _export_caveats(team)
    elif not team.export.microcontrollers:
        export_command = command_text("export", "RUN", to="c", measure=True, output="EXPORT")
        yield _not_measured(
            "flash, RAM and instructions on a microcontroller were not measured", export_command
        )


def _export_caveats(team: Team) -> Iterator[Limit]:
    """Yield what a profile of the run itself does not say about its exports."""
    from kd_offline.exports.engines import MANIFEST
    from kd_offline.exports.export import PRECISIONS, place

    exported_folders = [place(team.run.path, None, precision).name for precision in PRECISIONS]
    exported_folders = [
        name for name in exported_folders if (team.run.path / name / MANIFEST).is_file()
    ]
    if not exported_folders:
        yield _not_measured("the students were not exported", "kd-offline export RUN")
    for name in exported_folders:
        text = f"the profile is of the students as trained, not of their export in {name}"
        command = command_text("profile", "RUN", export=f"RUN/{name}")
        yield Limit(topic="scope", text=text, command=command)


def _role_caveats(team: Team, groups: Groups) -> Iterator[Limit]:
    recipe = recipe_of(team.run.manifest)
    if recipe.weights.get("role") and groups.clusters is None:
        yield _not_measured(
            "role clusters are not known, because the dataset was not there",
            command_text("profile", "RUN", dataset="DATASET"),
        )


def _not_measured(text: str, command: str | None) -> Limit:
    return Limit(topic="not measured", text=text, command=command)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


_EPISODES = 200
_HOW = {
    "kmeans": "k-means centres of the expert's embeddings",
    "pca": "principal axes of the expert's embeddings",
    "random": "random orthonormal directions",
}


def clusters(team: Team, dataset: str | Path | None) -> RoleClusters | None:
    """Return the role clusters of a run; None where its method has none or its dataset is missing.

    Raises
    ------
    UsageError, MismatchError
        A dataset was given and is not the run's.
    """
    from kd_offline.distillation.terms.role import RoleSettings, fit_roles
    from kd_offline.errors import UsageError
    from kd_offline.runs.source import open_dataset

    recipe = recipe_of(team.run.manifest)
    if not recipe.weights.get("role"):
        return None
    try:
        buffer = open_dataset(team.run.manifest, team.run.path, dataset)
    except UsageError:
        if dataset is not None:
            raise
        return None
    train = buffer.split("train")
    settings = RoleSettings.model_validate(recipe.terms.get("role", {}))
    roles = fit_roles(buffer, train, settings)
    episodes = train[:: max(1, len(train) // _EPISODES)][:_EPISODES]
    data = buffer.load(["steps/embedding", "steps/alive"], episodes)
    shares = {}
    for i, agent in enumerate(buffer.spec.agents):
        embedding = data["steps/embedding"][data["steps/alive"][:, i], i]
        if not len(embedding):
            continue  # it never acted
        mean = np.exp(roles.log_roles(embedding).numpy().astype(np.float64)).mean(axis=0)
        shares[agent] = tuple(np.round(mean, 4).tolist())
    description = _HOW[settings.init]
    return RoleClusters(roles=roles.roles, how=description, shares=shares)
