"""What the figures of a profile do not say, and which command would."""

from __future__ import annotations

from collections.abc import Iterator

from kd_offline.deployment.metrics import Measured
from kd_offline.deployment.team import Team
from kd_offline.runs.folder import recipe_of
from kd_offline.runs.judged import judged
from kd_offline.schemas.collaboration import Groups, Limit, Played

_EVALUATE = "kd-offline evaluate RUN --cross-play"


def limits(team: Team, found: Measured, groups: Groups) -> tuple[Limit, ...]:
    """Return everything that a reader of the profile has to know beside its figures."""
    played = found.envelope.played
    return (
        *_scope(team),
        *(() if played is None else _of_play(team, played)),
        *_unmeasured(team, found),
        *_unknown_roles(team, groups),
    )


def _scope(team: Team) -> Iterator[Limit]:
    spec = team.student.card.environment
    settings = ", ".join(f"{name}={value}" for name, value in spec.kwargs.items())
    yield Limit(
        topic="scope",
        text=f"every figure is of {spec.id} {spec.version} with "
        f"{settings or 'its default settings'}: nothing was measured elsewhere",
    )


def _of_play(team: Team, played: Played) -> Iterator[Limit]:
    yield _ceiling(team, played)
    yield Limit(topic="agreement", text=_agreement(team, played))
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
            command="kd-offline evaluate RUN --export EXPORT --cross-play",
        )


def _agreement(team: Team, played: Played) -> str:
    if played.agreement is None:
        return "nobody has a choice of actions in play, so agreement with the expert is undefined"
    in_play = f"in {_percent(played.agreement)} of the decisions that their own play leads to"
    if played.held_out_agreement is None:
        return f"students choose what the expert would {in_play}; {judged(team.manifest)}"
    return (
        f"students choose what the expert would in {_percent(played.held_out_agreement)} of "
        f"recorded held-out decisions and {in_play}; the second is the one to rely on; "
        f"{judged(team.manifest)}"
    )


def _ceiling(team: Team, played: Played) -> Limit:
    mask = team.manifest.mask
    if mask == "full":
        return Limit(topic="mask", text="students see everything: no mask limits what they reach")
    score = played.greedy or played.sampled
    if score is None or score.ceiling is None:
        return Limit(
            topic="mask",
            text=f"the best that is possible under the mask {mask!r} was not measured, so how much "
            "of the loss is the mask's is not known",
            command="kd-offline evaluate RUN --ceiling CEILING",
        )
    return Limit(
        topic="mask",
        text=f"a policy trained under the mask {mask!r} itself returns {score.ceiling.mean:.2f}, "
        f"the students {score.student.mean:.2f}, the expert, who sees everything, "
        f"{score.expert.mean:.2f}",
    )


def _unmeasured(team: Team, found: Measured) -> Iterator[Limit]:
    played = found.envelope.played
    evaluate = _EVALUATE if team.export is None else f"{_EVALUATE} --export EXPORT"
    if played is None:
        yield _missing("returns, agreement and the expert's cost were not measured", evaluate)
    else:
        for mode in ("greedy", "sampled"):
            if getattr(played, mode) is None:
                yield _missing(f"{mode} play was not measured", evaluate)
    if found.cross_play is None:
        yield _missing("teams mixed from experts and students were not played", evaluate)
    if found.envelope.latency is None:
        yield _missing("no engine was timed", "kd-offline bench latency RUN")
    elif team.export is not None and team.export.precision != "fp32":
        yield _missing(f"latencies are of float32, not of {team.export.precision}", None)
    if team.export is None:
        yield from _exports(team)
    elif not team.export.microcontrollers:
        wanted = "kd-offline export RUN --to c --measure -o EXPORT"
        yield _missing("flash, RAM and instructions on a microcontroller were not measured", wanted)


def _exports(team: Team) -> Iterator[Limit]:
    """Return what a profile of the run itself leaves out of its exports."""
    from kd_offline.exports.engines import MANIFEST
    from kd_offline.exports.export import PRECISIONS, place

    there = [place(team.run.path, None, precision).name for precision in PRECISIONS]
    there = [name for name in there if (team.run.path / name / MANIFEST).is_file()]
    if not there:
        yield _missing("the students were not exported", "kd-offline export RUN")
    for name in there:
        text = f"the profile is of the students as trained, not of their export in {name}"
        yield Limit(topic="scope", text=text, command=f"kd-offline profile RUN --export RUN/{name}")


def _unknown_roles(team: Team, groups: Groups) -> Iterator[Limit]:
    recipe = recipe_of(team.manifest)
    if recipe.weights.get("role") and groups.clusters is None:
        yield _missing(
            "role clusters are not known, because the dataset was not there",
            "kd-offline profile RUN --dataset DATASET",
        )


def _missing(text: str, command: str | None) -> Limit:
    return Limit(topic="not measured", text=text, command=command)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
