"""Write a page about a dataset, as one HTML file without external files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.analysis.blind_spots import blind_spots
from kd_offline.datasets.analysis.profile import Profile, profile
from kd_offline.datasets.metadata.summary import size_bytes
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.statistics import side_returns
from kd_offline.files import check_output, write_output
from kd_offline.reports import dataset_plots as plots
from kd_offline.reports import dataset_tables as tables
from kd_offline.reports.blind_spots import section as blind_spots_section
from kd_offline.reports.formatting import Card, number, percent, short, whole
from kd_offline.reports.page import Section, fill, resource
from kd_offline.reports.tables import Table
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.types import Array, FloatArray, IntArray

# Radii of the environments' own drawings, in world units; the format has no sizes.
_RADII = {"mpe/simple_spread_v3": 0.15, "mpe/simple_adversary_v3": 0.15}
_DEFAULT_RADIUS, _MAX_SCENES = 0.075, 8
_PAIRS = ("landmarks", "own_position")


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
        They receive the number of steps that are read.

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


def render(buffer: ExpertBuffer, profile: Profile) -> str:
    """Return the page as text."""
    playback_scenes = scenes(buffer)
    return fill(
        "dataset.html.j2",
        manifest=buffer.manifest,
        short_id=short(buffer.id),
        address=shlex.quote(Path(buffer.where).name),
        headline=_headline(buffer),
        cards=_cards(buffer, profile),
        sections=_sections(buffer, profile),
        scenes=_played(buffer, playback_scenes) if playback_scenes else None,
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


def _cards(buffer: ExpertBuffer, profile: Profile) -> list[Card]:
    statistics = buffer.manifest.statistics
    deviation = f"deviation {number(statistics.returns.std)}"
    size = f"{size_bytes(buffer) / 1e6:,.1f} MB"
    cards = [
        Card(f"mean return of {side}", number(x.mean), f"deviation {number(x.std)}", "expert")
        for side, x in side_returns(buffer.spec, buffer.episodes("agent_return")).items()
    ] or [Card("mean return", number(statistics.returns.mean), deviation, "expert")]
    cards.append(Card("stored", size, f"{whole(buffer.n_steps)} steps", "random"))
    if statistics.won is not None:
        cards.append(Card("won", percent(statistics.won), "of the episodes", "student"))
    if profile.sources is not None and profile.sources.sum():
        share = float(profile.sources[:, 0].sum() / profile.sources.sum())
        cards.append(
            Card("actions by the expert", percent(share), "the rest disturbs it", "student")
        )
    if profile.calibration is not None and np.isfinite(profile.calibration.correlation).any():
        mean = float(np.nanmean(profile.calibration.correlation))
        cards.append(Card("correlation of values", number(mean), "with returns-to-go", "ceiling"))
    return cards


def _sections(buffer: ExpertBuffer, profile: Profile) -> list[Section]:
    sections = [_returns(buffer, profile), _actions(buffer, profile), *_expert(buffer, profile)]
    sections.append(blind_spots_section(blind_spots(buffer)))
    sections.append(
        Section(
            "masks",
            "Student masks",
            "What each mask lets the students see of every block of their observations. A share "
            "is the mean over episodes, where the mask is drawn for each.",
            tables=tuple(tables.mask_tables(buffer.manifest, profile)),
        )
    )
    sections.append(
        Section(
            "provenance",
            "Origin",
            "Who made it, from what, and how. The id is a digest of the content: the same id is "
            "the same data.",
            tables=tuple(tables.origin_tables(buffer)),
        )
    )
    text = "As stored; a content digest does not depend on chunks or compression."
    sections.append(Section("arrays", "Arrays", text, tables=(tables.arrays_table(buffer),)))
    return sections


def _returns(buffer: ExpertBuffer, profile: Profile) -> Section:
    figures = (
        plots.returns_plot(profile.returns, profile.returns_by_noise),
        plots.lengths_plot(profile.lengths),
    )
    return Section(
        "returns",
        "Returns and lengths",
        "The return of an episode is the sum of the raw rewards of all agents and steps.",
        figures,
        (tables.returns_table(profile), tables.spreads_table(buffer)),
    )


def _actions(buffer: ExpertBuffer, profile: Profile) -> Section:
    spec = buffer.spec
    names = [labels[: spec.action_count] for labels in spec.action_names]
    plot = plots.actions_plot(spec.agents, names, profile.frequency, profile.moments)
    action_tables = (
        tables.actions_table(buffer.manifest, profile),
        tables.sources_table(buffer.manifest, profile),
    )
    return Section(
        "actions",
        "Actions",
        "Share of each executed action at each step, over all episodes, of agents that are alive; "
        "darker is more often.",
        (plot,),
        _there(action_tables),
    )


def _expert(buffer: ExpertBuffer, profile: Profile) -> list[Section]:
    """Return the sections about the expert's outputs that the dataset holds."""
    agents, sections = buffer.spec.agents, []
    if profile.entropy is not None:
        text = "How undecided the expert is: the entropy of its policy over the legal actions."
        plot = plots.entropy_plot(agents, profile.entropy, profile.moments)
        present_tables = _there((tables.entropy_table(buffer.manifest, profile),))
        sections.append(Section("expert", "The expert's entropy", text, (plot,), present_tables))
    if profile.calibration is not None:
        text = (
            "The critic's values against the discounted reward, mean over the agent's side, that "
            "followed. Only steps count from which on the expert alone acted. On the line, "
            "values are right on average."
        )
        plot = plots.calibration_plot(agents, profile.calibration)
        present_tables = _there((tables.calibration_table(buffer.manifest, profile),))
        sections.append(Section("values", "Values", text, (plot,), present_tables))
    if profile.similarity is not None:
        text = (
            "Mean cosine between the embeddings of two agents in the same step. Agents of "
            "different networks need not share directions."
        )
        plot = plots.similarity_plot(agents, profile.similarity)
        sections.append(Section("embeddings", "Embeddings", text, (plot,)))
    return sections


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


@dataclass(frozen=True, slots=True)
class Scene:
    """One episode to show, with ``F`` frames: one more than steps if ``final/obs`` is stored.

    ``places``: float64 [F, N, 2], NaN for agents without a position; ``landmarks``: float64 [L, 2];
    ``goal``: index of the landmark that an agent should reach, or None; ``actions``: int64
    [T, N]; ``sources``: int64 [T, N]; ``rewards``: float64 [T], summed over agents.
    """

    episode: int
    title: str
    places: FloatArray
    landmarks: FloatArray
    goal: int | None
    actions: IntArray
    sources: IntArray
    rewards: FloatArray
    radius: float


def scenes(buffer: ExpertBuffer) -> tuple[Scene, ...]:
    """Return the notable episodes of a particle task; empty for other environments.

    They are the best, the median and the worst by return, and the median of each noise level.

    Observations hold positions relative to the observer. If agents also observe their own position
    (simple_spread), the frame is the world's. Otherwise the frame is that of the landmarks, which
    do not move: an agent that observes the first one at ``d`` is at ``-d``. An agent that observes
    no landmark, such as the speaker of simple_speaker_listener, has no position.
    """
    spec = buffer.spec
    if not spec.id.startswith("mpe/") or not _agents_seeing_landmarks(spec):
        return ()
    return tuple(
        _scene(buffer, episode, title) for episode, title in notable_episodes(buffer).items()
    )


def notable_episodes(buffer: ExpertBuffer) -> dict[int, str]:
    """Return the index and the title of notable episodes."""
    returns = buffer.episodes("return")
    order = np.argsort(returns, kind="stable")
    reasons = {int(order[-1]): "best"}
    reasons.setdefault(int(order[len(order) // 2]), "median")
    reasons.setdefault(int(order[0]), "worst")
    if buffer.has("episodes/noise_level"):
        levels = buffer.episodes("noise_level")
        for level in np.unique(levels):
            of_level = order[levels[order] == level]
            reasons.setdefault(int(of_level[len(of_level) // 2]), f"median at noise {level:g}")
    return {
        episode: f"{why}, return {returns[episode]:.2f}"
        for episode, why in list(reasons.items())[:_MAX_SCENES]
    }


def _scene(buffer: ExpertBuffer, episode: int, title: str) -> Scene:
    spec, chosen = buffer.spec, np.array([episode])
    names = ["steps/obs", "steps/actions", "steps/reward"]
    optional = ("final/obs", "steps/action_source")
    names += [name for name in optional if buffer.has(name)]
    data = buffer.load(names, chosen)
    obs = data["steps/obs"].astype(np.float64)
    if "final/obs" in data:
        obs = np.concatenate([obs, data["final/obs"]])
    positions, landmarks = _places(spec, np.nan_to_num(obs))
    actions = data["steps/actions"].astype(np.int64)
    sources = data.get("steps/action_source", np.zeros_like(actions)).astype(np.int64)
    return Scene(
        episode=episode,
        title=title,
        places=positions,
        landmarks=landmarks,
        goal=_goal(spec, obs[0], landmarks, positions[0]),
        actions=actions,
        sources=sources,
        rewards=np.nan_to_num(data["steps/reward"].sum(axis=1, dtype=np.float64)),
        radius=_RADII.get(spec.id, _DEFAULT_RADIUS),
    )


def _agents_seeing_landmarks(spec: EnvironmentSpec) -> list[int]:
    """Return the agents that observe landmarks, as blocks of pairs of numbers."""
    rows = []
    for row, agent in enumerate(spec.agents):
        blocks, width = spec.blocks[agent], spec.obs_widths[row]
        sizes = {name: _block_width(blocks[name], width) for name in _PAIRS if name in blocks}
        if sizes.get("landmarks") and all(size % 2 == 0 for size in sizes.values()):
            rows.append(row)
    return rows


def _block_width(ranges: tuple[tuple[int, int], ...], width: int) -> int:
    """Return the number of features of a block; 1, which is odd, if it does not fit."""
    fits = all(0 <= a < b <= width for a, b in ranges)
    return sum(b - a for a, b in ranges) if fits else 1


def _block(spec: EnvironmentSpec, obs: Array, row: int, name: str) -> Array:
    """Return a block of one agent's observations as vectors, [..., k, 2]."""
    ranges = spec.blocks[spec.agents[row]][name]
    values = np.concatenate([obs[..., row, a:b] for a, b in ranges], axis=-1)
    return values.reshape(*values.shape[:-1], -1, 2)


def _places(spec: EnvironmentSpec, obs: Array) -> tuple[FloatArray, FloatArray]:
    """Return positions [F, N, 2] and landmarks [L, 2] in one frame."""
    sighted = _agents_seeing_landmarks(spec)
    absolute = all("own_position" in spec.blocks[spec.agents[row]] for row in sighted)
    positions = np.full((len(obs), spec.n_agents, 2), np.nan)
    for row in sighted:
        if absolute:
            positions[:, row] = _block(spec, obs, row, "own_position")[:, 0]
        else:
            positions[:, row] = -_block(spec, obs, row, "landmarks")[:, 0]
    first = sighted[0]
    landmarks = positions[0, first] + _block(spec, obs[0], first, "landmarks")
    if not absolute:  # the origin is the mean of the landmarks
        middle = landmarks.mean(axis=0)
        positions, landmarks = positions - middle, landmarks - middle
    return positions, landmarks


def _goal(spec: EnvironmentSpec, obs: Array, landmarks: Array, positions: Array) -> int | None:
    """Return the landmark that an agent observes as its goal, by direction or by colour."""
    for row, agent in enumerate(spec.agents):
        if "goal" not in spec.blocks[agent]:
            continue
        goal_features = np.concatenate([obs[row, a:b] for a, b in spec.blocks[agent]["goal"]])
        if len(goal_features) == 2 and np.isfinite(positions[row]).all():
            distances = np.linalg.norm(landmarks - (positions[row] + goal_features), axis=-1)
            return int(distances.argmin())
        if len(goal_features) == len(landmarks):
            return int(goal_features.argmax())
    return None
