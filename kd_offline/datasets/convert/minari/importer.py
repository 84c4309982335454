"""Reading a Minari dataset stored as HDF5, ours or made by Minari."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert import untrusted_hdf5
from kd_offline.datasets.convert.embedded_manifest import manifest_of
from kd_offline.datasets.convert.foreign_arrays import (
    MASKS,
    Legality,
    flags_of,
    legal_of,
    numbers_of,
    with_executed,
)
from kd_offline.datasets.convert.inferred_metadata import Found, full_mask, header_for, spec_of
from kd_offline.datasets.convert.interchange import (
    Imported,
    Options,
    foreign,
    rounded,
)
from kd_offline.datasets.convert.minari.reimporter import returned
from kd_offline.datasets.convert.minari.spaces import AgentSpace, agents_of, features
from kd_offline.datasets.convert.minari.store import (
    MAIN,
    MANIFEST,
    METADATA,
    attribute,
    blocks,
    length_of,
    metadata_of,
    values_of,
)
from kd_offline.schemas.dataset_outputs import NotHeld
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array, BoolArray


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
    metadata = metadata_of(data)
    with untrusted_hdf5.opened(data / MAIN) as file:
        count = len([name for name in untrusted_hdf5.names(file) if name.startswith("episode_")])
        if count == 0 or count != metadata.get("total_episodes"):
            stated = metadata.get("total_episodes")
            raise foreign(data, f"it has {count} episodes where its metadata says {stated}")
        lengths = np.array([length_of(file, k) for k in range(count)], np.int64)
        text = metadata.get(MANIFEST)
        if text is not None:
            manifest = manifest_of(str(text), str(path))
            yield returned(path, file, metadata, manifest, lengths)
        else:
            yield _theirs(path, file, metadata, lengths, options)


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
    masks = _masks(file, agents, lengths)
    agents = tuple(sorted(agents, key=lambda agent: spec.agents.index(agent.name)))

    def group(k: int) -> Any:
        return untrusted_hdf5.subgroup(file, f"episode_{k}")

    has_seed = all("seed" in group(k).attrs for k in range(len(lengths)))
    legality = _legality(path, file, agents, masks, lengths)
    rewards = (_rewards(group(k), int(lengths[k]), spec.n_agents) for k in range(len(lengths)))
    inexact = sum(bool((values != values.astype(np.float32)).any()) for values in rewards)
    unfinished = [k for k in range(len(lengths)) if not _ends(path, file, k, int(lengths[k]))]

    def load(k: int) -> dict[str, Array]:
        return _their_episode(group(k), agents, masks, spec, int(lengths[k]), has_seed)

    return Imported(
        header=header_for(spec, path, "minari", options),
        blocks=blocks(lengths, load),
        steps=int(lengths.sum()),
        masks=full_mask(spec),
        not_held=(
            *_not_held(file, agents, masks, inexact),
            *(n for x in legality for n in x.not_held()),
        ),
        notes=tuple(_notes(unfinished, has_seed, agents, masks)),
    )


def _ends(path: Path, file: Any, k: int, length: int) -> bool:
    """Tell whether an episode is marked as ended; in no step but the last may it be."""
    group = untrusted_hdf5.subgroup(file, f"episode_{k}")
    done = _flags(group, "terminations", length) | _flags(group, "truncations", length)
    if done[:-1].any():
        step = int(np.argmax(done))
        raise foreign(path, f"episode {k} goes on after it ended in step {step}", "split it there")
    return bool(done[-1])


def _flags(group: Any, name: str, length: int) -> BoolArray:
    values = values_of(group, name, length)
    return flags_of(Path(group.file.filename), f"{name} in {group.name}", values)


def _masks(file: Any, agents: Sequence[AgentSpace], lengths: Array) -> dict[str, str]:
    """Return where the legal actions of every agent lie in an episode, of those that have any.

    They are a part of the observation, or one of ``infos``: of all agents, or below the agent's
    name on either side. Infos have a row more than there are steps, as Minari's collector writes
    them; a mask with another number of rows belongs to steps that nobody knows.
    """
    first = untrusted_hdf5.subgroup(file, "episode_0")
    found = {}
    for agent in agents:
        if agent.mask is not None:
            found[agent.name] = "/".join(filter(None, ("observations", agent.key, agent.mask)))
            continue
        for name in MASKS:
            ways = [f"infos/{agent.key}/{name}", f"infos/{name}/{agent.key}"]
            for where in ways if agent.key else [f"infos/{name}"]:
                values = untrusted_hdf5.member(first, where)
                if getattr(values, "shape", None) == (int(lengths[0]) + 1, agent.actions):
                    found.setdefault(agent.name, where)
    return found


def _legal(group: Any, agent: AgentSpace, where: str, length: int) -> BoolArray:
    """Return the legal actions before every step, bool [T, A]."""
    values = values_of(group, where, length + 1)
    if values[0].size != agent.actions:
        raise _odd(group, where, values)
    legal = legal_of(Path(group.file.filename), f"{where} in {group.name}", values)
    return legal.reshape(length + 1, agent.actions)[:-1]


def _legality(
    path: Path,
    file: Any,
    agents: Sequence[AgentSpace],
    masks: Mapping[str, str],
    lengths: Array,
) -> list[Legality]:
    """Count how often executed actions are legal, and refuse masks that mean something else."""
    found = []
    for agent in agents:
        if agent.name not in masks:
            continue
        where = masks[agent.name]
        counted = Legality(where)
        for k, length in enumerate(lengths.tolist()):
            group = untrusted_hdf5.subgroup(file, f"episode_{k}")
            actions = _actions(group, agent, length)
            counted.add(_legal(group, agent, where, length), actions)
        counted.check(path)
        found.append(counted)
    return found


def _their_episode(
    group: Any,
    agents: Sequence[AgentSpace],
    masks: Mapping[str, str],
    spec: EnvironmentSpec,
    length: int,
    has_seed: bool,
) -> dict[str, Array]:
    seen = [_observation(group, agent, length) for agent in agents]
    observed = np.zeros((length + 1, spec.n_agents, spec.obs_width), np.float32)
    actions = np.zeros((length, spec.n_agents), np.int16)
    exists = np.arange(spec.action_count) < np.array(spec.action_counts)[:, None]
    legal = np.broadcast_to(exists, (length, *exists.shape)).copy()
    for n, agent in enumerate(agents):
        observed[:, n, : agent.width] = seen[n]
        actions[:, n] = _actions(group, agent, length)
        if agent.name in masks:
            mask = _legal(group, agent, masks[agent.name], length)
            executed = actions[:, n].astype(np.int64)
            legal[:, n, : agent.actions] = with_executed(mask, executed)
    reward = _rewards(group, length, spec.n_agents).astype(np.float32)
    terminated = _flags(group, "terminations", length)
    truncated = _flags(group, "truncations", length)
    truncated[-1] |= not terminated[-1]
    found: dict[str, Array] = {
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
        found["episodes/seed"] = np.array([int(attribute(group, "seed"))], np.uint64)
    return found


def _paths(agent: AgentSpace) -> list[str]:
    """Return where the parts of an agent's observation lie in an episode."""
    words = (("observations", agent.key, part.path) for part in agent.parts)
    return ["/".join(filter(None, path)) for path in words]


def _actions(group: Any, agent: AgentSpace, length: int) -> Array:
    """Return an agent's actions counted from zero, int64 [T]."""
    values = values_of(group, f"actions/{agent.key}".rstrip("/"), length)
    if values.size != length:
        raise _odd(group, f"actions of {agent.name}", values)
    path, what = Path(group.file.filename), f"actions of {agent.name} in {group.name}"
    actions = numbers_of(path, what, values.reshape(length)) - agent.first_action
    if actions.min() < 0 or actions.max() >= agent.actions:
        what = f"an action of {agent.name} in {group.name} is outside of its space"
        raise foreign(Path(group.file.filename), what)
    return actions


def _rewards(group: Any, length: int, agents: int) -> Array:
    """Return the rewards of a step, [T, 1] or [T, N]."""
    values = values_of(group, "rewards", length)
    if values.size not in (length, length * agents):
        raise _odd(group, "rewards", values)
    return values.reshape(length, -1)


def _odd(group: Any, what: str, values: Array) -> Exception:
    got = f"{what} in {group.name} have shape {list(values.shape)}, not that of their space"
    return foreign(Path(group.file.filename), got)


def _observation(group: Any, agent: AgentSpace, length: int) -> Array:
    columns = []
    for part, name in zip(agent.parts, _paths(agent), strict=True):
        values = values_of(group, name, length + 1)
        if values[0].size != (1 if part.levels else part.width):
            raise _odd(group, name, values)
        columns.append(features(Path(group.file.filename), part, values))
    return np.concatenate(columns, axis=1)


def _not_held(
    file: Any, agents: Sequence[AgentSpace], masks: Mapping[str, str], inexact: int
) -> Iterator[NotHeld]:
    first = untrusted_hdf5.subgroup(file, "episode_0")
    for name in sorted({name for agent in agents for name in _paths(agent)}):
        found = untrusted_hdf5.dataset(first, name)
        yield from rounded(name, found.dtype) if found.dtype.kind == "f" else ()
    if inexact:
        why = f"in {inexact} episodes float64 values were rounded to float32"
        yield NotHeld(array="rewards", why=why)
    for name in _leaves(untrusted_hdf5.member(file, "episode_0/infos"), "infos"):
        if name in masks.values():
            continue
        masklike = set(name.split("/")) & set(MASKS)
        why = "the expert buffer has no array of this meaning"
        if masklike:
            why = "it is called a mask of legal actions, but is not shaped as one of every step"
        yield NotHeld(array=name, why=why)


def _leaves(group: Any, where: str, depth: int = 3) -> Iterator[str]:
    """Yield the paths of arrays below a group, and of groups that lie too deep (or in a circle)."""
    for name in untrusted_hdf5.names(group) if group is not None else ():
        found, inside = untrusted_hdf5.member(group, name), f"{where}/{name}"
        deeper = hasattr(found, "keys") and depth > 1
        yield from _leaves(found, inside, depth - 1) if deeper else (inside,)


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
