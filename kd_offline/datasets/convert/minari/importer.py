"""Import a Minari dataset stored as HDF5, ours or Minari's own.

One that this package exported comes back as it was, by the manifest that it embeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert import untrusted_hdf5
from kd_offline.datasets.convert.embedded_manifest import (
    parse_embedded_manifest,
    splits_from_manifest,
)
from kd_offline.datasets.convert.foreign_arrays import (
    MASK_NAMES,
    LegalityCount,
    boolean_array,
    discrete_actions,
    legal_actions,
    with_executed_legal,
)
from kd_offline.datasets.convert.inferred_metadata import (
    InferredEnvironment,
    environment_spec,
    full_mask,
    import_header,
)
from kd_offline.datasets.convert.interchange import (
    ConvertOptions,
    ImportedDataset,
    foreign_error,
    rounding_losses,
)
from kd_offline.datasets.convert.minari.spaces import AgentSpace, agents_of, features
from kd_offline.datasets.convert.minari.store import (
    ATTRIBUTE_PREFIX,
    DATA_FILE,
    EPISODE_MASKS_GROUP,
    MANIFEST_KEY,
    MASKS_KEY,
    METADATA_FILE,
    attribute,
    episode_blocks_from,
    length_of,
    metadata_of,
    values_of,
)
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import recording_header
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.schemas.dataset_outputs import NotHeld
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array, BoolArray


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is the folder of a Minari dataset, or the ``data`` in it."""
    return any(
        ((folder / METADATA_FILE).is_file() and any(folder.glob("main_data.*")))
        or ((folder / METADATA_FILE).is_file() and any(folder.glob("*/part-0.*")))
        for folder in (path, path / "data")
    )


@contextmanager
def read(path: Path, options: ConvertOptions) -> Iterator[ImportedDataset]:
    """Open the dataset in a Minari folder.

    Raises
    ------
    ForeignError
        It is damaged, or holds what an expert buffer cannot, such as images.
    """
    data = path / "data" if (path / "data" / METADATA_FILE).is_file() else path
    metadata = metadata_of(data)
    with untrusted_hdf5.open_hdf5(data / DATA_FILE) as file:
        count = len(
            [name for name in untrusted_hdf5.member_names(file) if name.startswith("episode_")]
        )
        if count == 0 or count != metadata.get("total_episodes"):
            stated = metadata.get("total_episodes")
            raise foreign_error(data, f"it has {count} episodes where its metadata says {stated}")
        lengths = np.array([length_of(file, k) for k in range(count)], np.int64)
        text = metadata.get(MANIFEST_KEY)
        if text is not None:
            manifest = parse_embedded_manifest(str(text), str(path))
            yield reimport(path, file, metadata, manifest, lengths)
        else:
            yield _import_foreign(path, file, metadata, lengths, options)


def _import_foreign(
    path: Path, file: Any, metadata: Mapping[str, Any], lengths: Array, options: ConvertOptions
) -> ImportedDataset:
    agents = agents_of(path, metadata)
    inferred = InferredEnvironment(
        obs_widths=[agent.width for agent in agents],
        action_counts=[agent.actions for agent in agents],
        longest=int(lengths.max()),
        agents=[agent.name for agent in agents],
        reward="team",
        blocks={agent.name: agent.blocks for agent in agents},
        name=str(metadata.get("dataset_id", "")),
    )
    spec = environment_spec(inferred, options)
    masks = _mask_paths(file, agents, lengths)
    agents = tuple(sorted(agents, key=lambda agent: spec.agents.index(agent.name)))

    def group(k: int) -> Any:
        return untrusted_hdf5.subgroup(file, f"episode_{k}")

    has_seed = all("seed" in group(k).attrs for k in range(len(lengths)))
    legality = _legality(path, file, agents, masks, lengths)
    rewards = (_rewards(group(k), int(lengths[k]), spec.n_agents) for k in range(len(lengths)))
    inexact = sum(bool((values != values.astype(np.float32)).any()) for values in rewards)
    unfinished = [k for k in range(len(lengths)) if not _is_ended(path, file, k, int(lengths[k]))]

    def load(k: int) -> dict[str, Array]:
        return _read_episode(group(k), agents, masks, spec, int(lengths[k]), has_seed)

    return ImportedDataset(
        header=import_header(spec, path, "minari", options),
        blocks=episode_blocks_from(lengths, load),
        steps=int(lengths.sum()),
        masks=full_mask(spec),
        not_held=(
            *_not_held(file, agents, masks, inexact),
            *(n for x in legality for n in x.not_held()),
        ),
        notes=tuple(_notes(unfinished, has_seed, agents, masks)),
    )


def _is_ended(path: Path, file: Any, k: int, length: int) -> bool:
    """Tell whether an episode ends in its last step; raises if it ends in an earlier one."""
    group = untrusted_hdf5.subgroup(file, f"episode_{k}")
    done = _flags(group, "terminations", length) | _flags(group, "truncations", length)
    if done[:-1].any():
        step = int(np.argmax(done))
        raise foreign_error(
            path, f"episode {k} goes on after it ended in step {step}", "split it there"
        )
    return bool(done[-1])


def _flags(group: Any, name: str, length: int) -> BoolArray:
    values = values_of(group, name, length)
    return boolean_array(Path(group.file.filename), f"{name} in {group.name}", values)


def _mask_paths(file: Any, agents: Sequence[AgentSpace], lengths: Array) -> dict[str, str]:
    """Return agent -> path of its legal actions in an episode, for agents that have them.

    Legal actions are a part of the observation, or in ``infos``: of all agents, or with the agent's
    name on either side. ``infos`` have one row more than there are steps, as Minari's collector
    writes them; masks with another number of rows are not used.
    """
    first = untrusted_hdf5.subgroup(file, "episode_0")
    paths = {}
    for agent in agents:
        if agent.mask is not None:
            paths[agent.name] = "/".join(filter(None, ("observations", agent.key, agent.mask)))
            continue
        for name in MASK_NAMES:
            candidates = [f"infos/{agent.key}/{name}", f"infos/{name}/{agent.key}"]
            for path in candidates if agent.key else [f"infos/{name}"]:
                values = untrusted_hdf5.member(first, path)
                if getattr(values, "shape", None) == (int(lengths[0]) + 1, agent.actions):
                    paths.setdefault(agent.name, path)
    return paths


def _legal_actions(group: Any, agent: AgentSpace, where: str, length: int) -> BoolArray:
    """Return the legal actions before every step, bool [T, A]."""
    values = values_of(group, where, length + 1)
    if values[0].size != agent.actions:
        raise _shape_error(group, where, values)
    legal = legal_actions(Path(group.file.filename), f"{where} in {group.name}", values)
    return legal.reshape(length + 1, agent.actions)[:-1]


def _legality(
    path: Path,
    file: Any,
    agents: Sequence[AgentSpace],
    masks: Mapping[str, str],
    lengths: Array,
) -> list[LegalityCount]:
    """Count how often executed actions are legal; raises if a mask has another meaning."""
    counts = []
    for agent in agents:
        if agent.name not in masks:
            continue
        mask_path = masks[agent.name]
        count = LegalityCount(mask_path)
        for k, length in enumerate(lengths.tolist()):
            group = untrusted_hdf5.subgroup(file, f"episode_{k}")
            actions = _actions(group, agent, length)
            count.add(_legal_actions(group, agent, mask_path, length), actions)
        count.check(path)
        counts.append(count)
    return counts


def _read_episode(
    group: Any,
    agents: Sequence[AgentSpace],
    masks: Mapping[str, str],
    spec: EnvironmentSpec,
    length: int,
    has_seed: bool,
) -> dict[str, Array]:
    observations = [_observation(group, agent, length) for agent in agents]
    observed = np.zeros((length + 1, spec.n_agents, spec.obs_width), np.float32)
    actions = np.zeros((length, spec.n_agents), np.int16)
    exists = np.arange(spec.action_count) < np.array(spec.action_counts)[:, None]
    legal = np.broadcast_to(exists, (length, *exists.shape)).copy()
    for n, agent in enumerate(agents):
        observed[:, n, : agent.width] = observations[n]
        actions[:, n] = _actions(group, agent, length)
        if agent.name in masks:
            mask = _legal_actions(group, agent, masks[agent.name], length)
            executed = actions[:, n].astype(np.int64)
            legal[:, n, : agent.actions] = with_executed_legal(mask, executed)
    reward = _rewards(group, length, spec.n_agents).astype(np.float32)
    terminated = _flags(group, "terminations", length)
    truncated = _flags(group, "truncations", length)
    truncated[-1] |= not terminated[-1]
    arrays: dict[str, Array] = {
        "steps/obs": observed[:-1],
        "steps/actions": actions,
        "steps/available_actions": legal,
        "steps/alive": np.ones((length, spec.n_agents), np.bool_),
        "steps/reward": np.ascontiguousarray(np.broadcast_to(reward, (length, spec.n_agents))),
        "steps/terminated": terminated,
        "steps/truncated": truncated,
        "final/obs": observed[-1:],
    }
    if has_seed:
        arrays["episodes/seed"] = np.array([int(attribute(group, "seed"))], np.uint64)
    return arrays


def _paths(agent: AgentSpace) -> list[str]:
    """Return the paths of the parts of an agent's observation in an episode."""
    components = (("observations", agent.key, part.path) for part in agent.parts)
    return ["/".join(filter(None, path)) for path in components]


def _actions(group: Any, agent: AgentSpace, length: int) -> Array:
    """Return an agent's actions counted from zero, int64 [T]."""
    values = values_of(group, f"actions/{agent.key}".rstrip("/"), length)
    if values.size != length:
        raise _shape_error(group, f"actions of {agent.name}", values)
    path, what = Path(group.file.filename), f"actions of {agent.name} in {group.name}"
    actions = discrete_actions(path, what, values.reshape(length)) - agent.first_action
    if actions.min() < 0 or actions.max() >= agent.actions:
        what = f"an action of {agent.name} in {group.name} is outside of its space"
        raise foreign_error(Path(group.file.filename), what)
    return actions


def _rewards(group: Any, length: int, agents: int) -> Array:
    """Return the rewards of every step, [T, 1] or [T, N]."""
    values = values_of(group, "rewards", length)
    if values.size not in (length, length * agents):
        raise _shape_error(group, "rewards", values)
    return values.reshape(length, -1)


def _shape_error(group: Any, what: str, values: Array) -> Exception:
    got = f"{what} in {group.name} have shape {list(values.shape)}, not that of their space"
    return foreign_error(Path(group.file.filename), got)


def _observation(group: Any, agent: AgentSpace, length: int) -> Array:
    columns = []
    for part, name in zip(agent.parts, _paths(agent), strict=True):
        values = values_of(group, name, length + 1)
        if values[0].size != (1 if part.levels else part.width):
            raise _shape_error(group, name, values)
        columns.append(features(Path(group.file.filename), part, values))
    return np.concatenate(columns, axis=1)


def _not_held(
    file: Any, agents: Sequence[AgentSpace], masks: Mapping[str, str], inexact: int
) -> Iterator[NotHeld]:
    first = untrusted_hdf5.subgroup(file, "episode_0")
    for name in sorted({name for agent in agents for name in _paths(agent)}):
        array = untrusted_hdf5.checked_dataset(first, name)
        yield from rounding_losses(name, array.dtype) if array.dtype.kind == "f" else ()
    if inexact:
        why = f"in {inexact} episodes float64 values were rounded to float32"
        yield NotHeld(array="rewards", why=why)
    for name in _leaves(untrusted_hdf5.member(file, "episode_0/infos"), "infos"):
        if name in masks.values():
            continue
        masklike = set(name.split("/")) & set(MASK_NAMES)
        why = "the expert buffer has no array of this meaning"
        if masklike:
            why = "it is called a mask of legal actions, but is not shaped as one of every step"
        yield NotHeld(array=name, why=why)


def _leaves(group: Any, path: str, depth: int = 3) -> Iterator[str]:
    """Yield the paths of arrays below a group, and of groups that are nested too deep."""
    for name in untrusted_hdf5.member_names(group) if group is not None else ():
        member, member_path = untrusted_hdf5.member(group, name), f"{path}/{name}"
        deeper = hasattr(member, "keys") and depth > 1
        yield from _leaves(member, member_path, depth - 1) if deeper else (member_path,)


def _notes(
    unfinished: Sequence[int],
    has_seed: bool,
    agents: Sequence[AgentSpace],
    masks: Mapping[str, str],
) -> Iterator[str]:
    for name, where in masks.items():
        yield f"{where} says which actions of {name} are legal"
    if without := [agent.name for agent in agents if agent.name not in masks]:
        whose = "" if len(without) == len(agents) else f" of {', '.join(without)}"
        yield f"there are no legal actions{whose}: every action counts as legal"
    for agent in agents:
        yield from agent.notes
    if len(agents) > 1:
        yield "the one reward of a step counts as that of every agent"
    if unfinished:
        yield f"{len(unfinished)} episodes have no end: their last step counts as truncated"
    if not has_seed:
        yield "not every episode has a seed: none were taken"


def reimport(
    path: Path, file: Any, metadata: Mapping[str, Any], manifest: DatasetManifest, lengths: Array
) -> ImportedDataset:
    """Return the exported dataset; ``manifest`` is the one embedded in the Minari dataset."""
    groups = (untrusted_hdf5.subgroup(file, f"episode_{k}") for k in range(len(lengths)))
    codes = np.array([attribute(group, f"{ATTRIBUTE_PREFIX}split") for group in groups], np.uint8)

    def load(k: int) -> dict[str, Array]:
        group = untrusted_hdf5.subgroup(file, f"episode_{k}")
        return _episode(group, manifest, int(lengths[k]))

    return ImportedDataset(
        header=recording_header(manifest),
        blocks=episode_blocks_from(lengths, load),
        steps=int(lengths.sum()),
        manifest=manifest,
        splits=splits_from_manifest(manifest, codes),
        masks=_masks(path, file, metadata, manifest, len(lengths)),
    )


def _masks(
    path: Path, file: Any, metadata: Mapping[str, Any], manifest: DatasetManifest, episodes: int
) -> dict[str, Array]:
    try:
        fixed = dict(json.loads(metadata.get(MASKS_KEY, "{}")))
    except (ValueError, TypeError, RecursionError):
        raise foreign_error(path, f"{MASKS_KEY} in its metadata.json is damaged") from None
    masks = {name: np.asarray(mask, np.bool_) for name, mask in fixed.items()}
    for name in (n.removeprefix("masks/") for n in manifest.arrays if n.startswith("masks/")):
        if name not in masks:
            paths = (f"episode_{k}/{EPISODE_MASKS_GROUP}/{name}" for k in range(episodes))
            masks[name] = np.stack(
                [untrusted_hdf5.read_all(untrusted_hdf5.checked_dataset(file, p)) for p in paths]
            )
    return masks


def _episode(group: Any, manifest: DatasetManifest, length: int) -> dict[str, Array]:
    spec = manifest.environment
    observations_group, actions_group, infos_group = (
        untrusted_hdf5.subgroup(group, n) for n in ("observations", "actions", "infos")
    )
    observed = np.zeros((length + 1, spec.n_agents, spec.obs_width), np.float32)
    actions = np.zeros((length, spec.n_agents), np.int16)
    for n, agent in enumerate(spec.agents):
        observed[:, n, : spec.obs_widths[n]] = values_of(observations_group, agent, length + 1)
        actions[:, n] = values_of(actions_group, agent, length)
    arrays = {
        "steps/actions": actions,
        "steps/terminated": values_of(group, "terminations", length),
        "steps/truncated": values_of(group, "truncations", length),
    }
    infos = {"obs": observed}
    for name, array in manifest.arrays.items():
        kind, short = name.split("/", 1)
        if kind in ("steps", "final") and name not in arrays:
            if short not in infos:
                infos[short] = values_of(infos_group, short, length + 1)
            arrays[name] = infos[short][:-1] if kind == "steps" else infos[short][-1:]
        elif kind == "episodes" and not layout.rule_for(name).derived and short != "length":
            key = "seed" if short == "seed" else f"{ATTRIBUTE_PREFIX}{short}"
            arrays[name] = np.array([attribute(group, key)], array.dtype)
    return arrays
