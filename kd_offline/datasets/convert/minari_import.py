"""Reading a Minari dataset stored as HDF5, ours or made by Minari."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets import layout
from kd_offline.datasets.blocks import EpisodeBlock
from kd_offline.datasets.convert import careful_hdf5 as careful
from kd_offline.datasets.convert.carried import header_of, manifest_of, splits_of
from kd_offline.datasets.convert.parts import Imported, Options, episode_groups, foreign
from kd_offline.datasets.convert.spaces import AgentSpace, agents_of, features
from kd_offline.datasets.convert.unknown import Found, header_for, spec_of
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.outputs import NotHeld
from kd_offline.types import Array

MAIN = "main_data.hdf5"
METADATA = "metadata.json"
MANIFEST = "kd_offline_manifest"
MASKS = "kd_offline_masks"
EPISODE_MASKS = "kd_masks"
ATTRIBUTE = "kd_"
_LARGEST_JSON = 256 << 20


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is the folder of a Minari dataset, or the ``data`` in it."""
    return any(
        ((folder / METADATA).is_file() and any(folder.glob("main_data.*")))
        or ((folder / METADATA).is_file() and any(folder.glob("*/part-0.*")))
        for folder in (path, path / "data")
    )


@contextmanager
def read(path: Path, options: Options) -> Iterator[Imported]:
    """Open a Minari dataset.

    Raises
    ------
    ForeignError
        It is damaged, or holds what an expert buffer cannot, such as images.
    """
    data = path / "data" if (path / "data" / METADATA).is_file() else path
    metadata = _metadata(data)
    with careful.opened(data / MAIN) as file:
        count = len([name for name in careful.names(file) if name.startswith("episode_")])
        if count == 0 or count != metadata.get("total_episodes"):
            stated = metadata.get("total_episodes")
            raise foreign(data, f"it has {count} episodes where its metadata says {stated}")
        lengths = np.array([_length(file, k) for k in range(count)], np.int64)
        text = metadata.get(MANIFEST)
        if text is not None:
            manifest = manifest_of(str(text), str(path))
            yield _ours(path, file, metadata, manifest, lengths)
        else:
            yield _theirs(path, file, metadata, lengths, options)


def _metadata(data: Path) -> dict[str, Any]:
    file = data / METADATA
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise foreign(data, f"{METADATA} is too large")
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise foreign(data, f"it has no {METADATA}", "check the path") from None
    except (ValueError, RecursionError):
        raise foreign(data, f"{METADATA} is damaged") from None
    if not isinstance(document, dict):
        raise foreign(data, f"{METADATA} is damaged")
    if document.get("data_format", "hdf5") != "hdf5":
        kept = document["data_format"]
        advice = "store it as hdf5 with Minari first"
        raise foreign(data, f"its data are kept as {kept!r}, not as hdf5", advice)
    return document


def _length(file: Any, k: int) -> int:
    length = len(careful.dataset(careful.subgroup(file, f"episode_{k}"), "rewards"))
    if length < 1:
        raise foreign(Path(file.filename), f"episode {k} has no steps")
    return length


def _values(group: Any, name: str, rows: int) -> Array:
    """Return a checked array of an episode, which must have ``rows`` rows."""
    found = careful.dataset(group, name)
    if found.ndim < 1 or len(found) != rows:
        path = Path(group.file.filename)
        raise foreign(path, f"{found.name} has {list(found.shape)} rows where {rows} are needed")
    return careful.whole(found)


def _blocks(lengths: Array, load: Callable[[int], Mapping[str, Array]]) -> Iterator[EpisodeBlock]:
    """Yield blocks of episodes; ``load`` returns one by full names, with a row for the episode."""
    for first, last in episode_groups(lengths):
        episodes = [load(k) for k in range(first, last)]
        parts: dict[str, dict[str, Array]] = {"steps": {}, "final": {}, "episodes": {}}
        for name in episodes[0]:
            group, short = name.split("/", 1)
            parts[group][short] = np.concatenate([episode[name] for episode in episodes])
        parts["episodes"]["length"] = lengths[first:last]
        yield EpisodeBlock(**parts)


# A dataset that we wrote


def _ours(
    path: Path, file: Any, metadata: Mapping[str, Any], manifest: DatasetManifest, lengths: Array
) -> Imported:
    groups = (careful.subgroup(file, f"episode_{k}") for k in range(len(lengths)))
    codes = np.array([_attribute(group, f"{ATTRIBUTE}split") for group in groups], np.uint8)

    def load(k: int) -> dict[str, Array]:
        group = careful.subgroup(file, f"episode_{k}")
        return _our_episode(group, manifest, int(lengths[k]))

    return Imported(
        header=header_of(manifest),
        blocks=_blocks(lengths, load),
        steps=int(lengths.sum()),
        manifest=manifest,
        splits=splits_of(manifest, codes),
        masks=_our_masks(path, file, metadata, manifest, len(lengths)),
    )


def _our_masks(
    path: Path, file: Any, metadata: Mapping[str, Any], manifest: DatasetManifest, episodes: int
) -> dict[str, Array]:
    try:
        fixed = dict(json.loads(metadata.get(MASKS, "{}")))
    except (ValueError, TypeError, RecursionError):
        raise foreign(path, f"{MASKS} in its metadata.json is damaged") from None
    masks = {name: np.asarray(mask, np.bool_) for name, mask in fixed.items()}
    for name in (n.removeprefix("masks/") for n in manifest.arrays if n.startswith("masks/")):
        if name not in masks:
            paths = (f"episode_{k}/{EPISODE_MASKS}/{name}" for k in range(episodes))
            masks[name] = np.stack([careful.whole(careful.dataset(file, p)) for p in paths])
    return masks


def _our_episode(group: Any, manifest: DatasetManifest, length: int) -> dict[str, Array]:
    spec = manifest.environment
    observed = np.zeros((length + 1, spec.n_agents, spec.obs_width), np.float32)
    actions = np.zeros((length, spec.n_agents), np.int16)
    for n, agent in enumerate(spec.agents):
        observed[:, n, : spec.obs_widths[n]] = _values(group, f"observations/{agent}", length + 1)
        actions[:, n] = _values(group, f"actions/{agent}", length)
    found = {
        "steps/actions": actions,
        "steps/terminated": _values(group, "terminations", length),
        "steps/truncated": _values(group, "truncations", length),
    }
    infos = {"obs": observed}
    for name, array in manifest.arrays.items():
        kind, short = name.split("/", 1)
        if kind in ("steps", "final") and name not in found:
            if short not in infos:
                infos[short] = _values(group, f"infos/{short}", length + 1)
            found[name] = infos[short][:-1] if kind == "steps" else infos[short][-1:]
        elif kind == "episodes" and not layout.rule_for(name).derived and short != "length":
            attribute = "seed" if short == "seed" else f"{ATTRIBUTE}{short}"
            found[name] = np.array([_attribute(group, attribute)], array.dtype)
    return found


def _attribute(group: Any, name: str) -> Any:
    if name not in group.attrs or not np.isscalar(value := group.attrs[name]):
        raise foreign(Path(group.file.filename), f"{group.name} has no attribute {name!r}")
    return value


# A dataset of others


def _theirs(
    path: Path, file: Any, metadata: Mapping[str, Any], lengths: Array, options: Options
) -> Imported:
    agents = agents_of(path, metadata)
    found = Found(
        obs_widths=[agent.width for agent in agents],
        action_counts=[agent.actions for agent in agents],
        longest=int(lengths.max()),
        agents=[agent.name for agent in agents],
        reward="team",
        blocks={agent.name: agent.blocks for agent in agents},
        name=str(metadata.get("dataset_id", "")),
    )
    spec = spec_of(found, options)
    agents = tuple(sorted(agents, key=lambda agent: spec.agents.index(agent.name)))
    has_seed = all(
        "seed" in careful.subgroup(file, f"episode_{k}").attrs for k in range(len(lengths))
    )
    unfinished = [k for k in range(len(lengths)) if not _ends(path, file, k, int(lengths[k]))]

    def load(k: int) -> dict[str, Array]:
        group = careful.subgroup(file, f"episode_{k}")
        return _their_episode(group, agents, spec, int(lengths[k]), has_seed)

    return Imported(
        header=header_for(spec, path, "minari", options),
        blocks=_blocks(lengths, load),
        steps=int(lengths.sum()),
        not_held=tuple(_not_held(file)),
        notes=tuple(_notes(unfinished, has_seed, len(agents))),
    )


def _ends(path: Path, file: Any, k: int, length: int) -> bool:
    """Tell whether an episode is marked as ended; in no step but the last may it be."""
    group = careful.subgroup(file, f"episode_{k}")
    done = _values(group, "terminations", length) | _values(group, "truncations", length)
    if done[:-1].any():
        step = int(np.argmax(done))
        raise foreign(path, f"episode {k} goes on after it ended in step {step}", "split it there")
    return bool(done[-1])


def _their_episode(
    group: Any, agents: Sequence[AgentSpace], spec: EnvironmentSpec, length: int, has_seed: bool
) -> dict[str, Array]:
    observed = np.zeros((length + 1, spec.n_agents, spec.obs_width), np.float32)
    actions = np.zeros((length, spec.n_agents), np.int16)
    for n, agent in enumerate(agents):
        observed[:, n, : agent.width] = _observation(group, agent, length)
        name = f"actions/{agent.key}".rstrip("/")
        actions[:, n] = _values(group, name, length).reshape(length) - agent.first_action
    exists = np.arange(spec.action_count) < np.array(spec.action_counts)[:, None]
    reward = _values(group, "rewards", length).reshape(length, -1).astype(np.float32)
    terminated = _values(group, "terminations", length).astype(np.bool_)
    truncated = _values(group, "truncations", length).astype(np.bool_)
    truncated[-1] |= not terminated[-1]
    found: dict[str, Array] = {
        "steps/obs": observed[:-1],
        "steps/actions": actions,
        "steps/available_actions": np.broadcast_to(exists, (length, *exists.shape)),
        "steps/alive": np.ones((length, spec.n_agents), np.bool_),
        "steps/reward": np.ascontiguousarray(np.broadcast_to(reward, (length, spec.n_agents))),
        "steps/terminated": terminated,
        "steps/truncated": truncated,
        "final/obs": observed[-1:],
    }
    if has_seed:
        found["episodes/seed"] = np.array([int(_attribute(group, "seed"))], np.uint64)
    return found


def _observation(group: Any, agent: AgentSpace, length: int) -> Array:
    columns = []
    for part in agent.parts:
        name = "/".join(word for word in ("observations", agent.key, part.path) if word)
        columns.append(features(part, _values(group, name, length + 1)))
    return np.concatenate(columns, axis=1)


def _not_held(file: Any) -> Iterator[NotHeld]:
    infos = careful.member(file, "episode_0/infos")
    for name in careful.names(infos) if infos is not None else ():
        yield NotHeld(array=f"infos/{name}", why="the expert buffer has no array of this meaning")


def _notes(unfinished: Sequence[int], has_seed: bool, agents: int) -> Iterator[str]:
    yield "there are no legal actions: every action counts as legal"
    if agents > 1:
        yield "the one reward of a step counts as that of every agent"
    if unfinished:
        yield f"{len(unfinished)} episodes have no end: their last step counts as truncated"
    if not has_seed:
        yield "not every episode has a seed: none were taken"
