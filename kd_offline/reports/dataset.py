"""A dataset as one page that needs no network and no other file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.analysis.playback import Scene, scenes
from kd_offline.datasets.analysis.profile import Profile, profile
from kd_offline.datasets.metadata.summary import size_bytes
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.statistics import side_returns
from kd_offline.files import check_output, write_output
from kd_offline.reports import dataset_plots as plots
from kd_offline.reports import dataset_tables as tables
from kd_offline.reports.formatting import Card, number, percent, short, whole
from kd_offline.reports.page import Section, fill, resource
from kd_offline.reports.tables import Table
from kd_offline.tracking.base import Observer, Operation, observed


def inspect_html(
    dataset: ExpertBuffer | str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> Path:
    """Write a page about a dataset and return its path; the same dataset gives the same bytes.

    Every step is read once. Neither environment nor expert is needed.

    Parameters
    ----------
    dataset
        An open dataset or its address.
    output
        File to write.
    overwrite
        Replace a file that is there.
    observers
        Told how many steps are read.

    Raises
    ------
    CorruptDatasetError
        A chunk is missing or damaged.
    MissingExtraError
        jinja2 or matplotlib is not installed.
    StorageError
        There is a file at ``output`` already, or it cannot be written.
    """
    target = Path(output)
    check_output(target, overwrite=overwrite)
    buffer = dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)
    with observed(Operation("inspect", {"dataset": buffer.id}, target), observers) as observer:
        page = render(buffer, profile(buffer, observer))
        write_output(target, page, overwrite=overwrite)
        observer.result = target
    return target


def render(buffer: ExpertBuffer, found: Profile) -> str:
    """Return the page as text."""
    shown = scenes(buffer)
    return fill(
        "dataset.html.j2",
        manifest=buffer.manifest,
        short_id=short(buffer.id),
        address=shlex.quote(Path(buffer.where).name),
        headline=_headline(buffer),
        cards=_cards(buffer, found),
        sections=_sections(buffer, found),
        scenes=_played(buffer, shown) if shown else None,
        player=resource("playback.js"),
    )


def _headline(buffer: ExpertBuffer) -> str:
    manifest = buffer.manifest
    experts = ", ".join(f"{e.kind} ({e.reference})" for e in manifest.experts)
    splits = ", ".join(f"{whole(s.episodes)} {name}" for name, s in manifest.splits.items())
    return (
        f"{whole(buffer.n_episodes)} episodes and {whole(buffer.n_steps)} steps of "
        f"{buffer.spec.id}, labelled by {experts or 'no recorded expert'}; {splits}."
    )


def _cards(buffer: ExpertBuffer, found: Profile) -> list[Card]:
    figures = buffer.manifest.statistics
    ends = f"deviation {number(figures.returns.std)}"
    size = f"{size_bytes(buffer) / 1e6:,.1f} MB"
    made = [
        Card(f"mean return of {side}", number(x.mean), f"deviation {number(x.std)}", "expert")
        for side, x in side_returns(buffer.spec, buffer.episodes("agent_return")).items()
    ] or [Card("mean return", number(figures.returns.mean), ends, "expert")]
    made.append(Card("stored", size, f"{whole(buffer.n_steps)} steps", "random"))
    if figures.won is not None:
        made.append(Card("won", percent(figures.won), "of the episodes", "student"))
    if found.sources is not None and found.sources.sum():
        share = float(found.sources[:, 0].sum() / found.sources.sum())
        made.append(
            Card("actions by the expert", percent(share), "the rest disturbs it", "student")
        )
    if found.calibration is not None and np.isfinite(found.calibration.correlation).any():
        mean = float(np.nanmean(found.calibration.correlation))
        made.append(Card("correlation of values", number(mean), "with returns-to-go", "ceiling"))
    return made


def _sections(buffer: ExpertBuffer, found: Profile) -> list[Section]:
    made = [_returns(buffer, found), _actions(buffer, found), *_expert(buffer, found)]
    made.append(
        Section(
            "masks",
            "Student masks",
            "What each mask lets the students see of every block of their observations. A share "
            "is the mean over episodes, where the mask is drawn for each.",
            tables=tuple(tables.mask_tables(buffer.manifest, found)),
        )
    )
    made.append(
        Section(
            "provenance",
            "Origin",
            "Who made it, from what, and how. The id is a digest of the content: the same id is "
            "the same data.",
            tables=tuple(tables.origin_tables(buffer)),
        )
    )
    text = "As stored; a content digest does not depend on chunks or compression."
    made.append(Section("arrays", "Arrays", text, tables=(tables.arrays_table(buffer),)))
    return made


def _returns(buffer: ExpertBuffer, found: Profile) -> Section:
    figures = (
        plots.returns_plot(found.returns, found.returns_by_noise),
        plots.lengths_plot(found.lengths),
    )
    return Section(
        "returns",
        "Returns and lengths",
        "The return of an episode is the sum of the raw rewards of all agents and steps.",
        figures,
        (tables.returns_table(found), tables.spreads_table(buffer)),
    )


def _actions(buffer: ExpertBuffer, found: Profile) -> Section:
    spec = buffer.spec
    names = [known[: spec.action_count] for known in spec.action_names]
    drawn = plots.actions_plot(spec.agents, names, found.frequency, found.moments)
    shown = (
        tables.actions_table(buffer.manifest, found),
        tables.sources_table(buffer.manifest, found),
    )
    return Section(
        "actions",
        "Actions",
        "Share of each executed action at each step, over all episodes, of agents that are alive; "
        "darker is more often.",
        (drawn,),
        _there(shown),
    )


def _expert(buffer: ExpertBuffer, found: Profile) -> list[Section]:
    """Return the sections about the expert's outputs that the dataset holds."""
    agents, made = buffer.spec.agents, []
    if found.entropy is not None:
        text = "How undecided the expert is: the entropy of its policy over the legal actions."
        drawn = plots.entropy_plot(agents, found.entropy, found.moments)
        shown = _there((tables.entropy_table(buffer.manifest, found),))
        made.append(Section("expert", "The expert's entropy", text, (drawn,), shown))
    if found.calibration is not None:
        text = (
            "The critic's values against the discounted reward, mean over the agent's side, that "
            "followed. Only steps count from which on the expert alone acted. On the line, "
            "values are right on average."
        )
        drawn = plots.calibration_plot(agents, found.calibration)
        shown = _there((tables.calibration_table(buffer.manifest, found),))
        made.append(Section("values", "Values", text, (drawn,), shown))
    if found.similarity is not None:
        text = (
            "Mean cosine between the embeddings of two agents in the same step. Agents of "
            "different networks need not share directions."
        )
        drawn = plots.similarity_plot(agents, found.similarity)
        made.append(Section("embeddings", "Embeddings", text, (drawn,)))
    return made


def _there(shown: tuple[Table | None, ...]) -> tuple[Table, ...]:
    return tuple(table for table in shown if table is not None)


def _played(buffer: ExpertBuffer, shown: tuple[Scene, ...]) -> dict[str, Any]:
    spec = buffer.spec
    return {
        "agents": spec.agents,
        "actions": spec.action_names,
        "sides": spec.side_of if len(spec.sides) > 1 else tuple(range(spec.n_agents)),
        "scenes": [_plain(scene) for scene in shown],
    }


def _plain(scene: Scene) -> dict[str, Any]:
    """Return a scene as JSON has it; a thousandth of the world is finer than a screen."""
    places = [
        [[round(x, 3), round(y, 3)] if np.isfinite(x) else None for x, y in frame]
        for frame in scene.places.tolist()
    ]
    return {
        "episode": scene.episode,
        "title": scene.title,
        "places": places,
        "landmarks": np.round(scene.landmarks, 3).tolist(),
        "goal": scene.goal,
        "actions": scene.actions.tolist(),
        "sources": scene.sources.tolist(),
        "rewards": np.round(scene.rewards, 4).tolist(),
        "radius": scene.radius,
    }
