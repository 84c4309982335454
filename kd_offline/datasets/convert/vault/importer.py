"""Import a vault: a first pass finds shapes and lengths, a second one reads the steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.embedded_manifest import (
    parse_embedded_manifest,
    splits_from_manifest,
)
from kd_offline.datasets.convert.foreign_arrays import (
    LegalityCount,
    boolean_array,
    discrete_actions,
    find_mask_name,
    is_one_hot,
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
    episode_ranges,
    foreign_error,
    rounding_losses,
    row_ranges,
)
from kd_offline.datasets.convert.vault import store
from kd_offline.datasets.convert.vault.store import VaultArrays, episode_ends
from kd_offline.datasets.format.layout import rule_for
from kd_offline.datasets.format.manifest import recording_header
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.schemas.dataset_outputs import NotHeld
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array

_REQUIRED_LEAVES = ("observations", "actions", "rewards", "terminals")
_READ_LEAVES = (*_REQUIRED_LEAVES, "truncations", "infos/state")


@contextmanager
def read(path: Path, options: ConvertOptions) -> Iterator[ImportedDataset]:
    """Open the dataset in a vault, written by kd-offline or by Flashbax.

    Raises
    ------
    ForeignError
        It is damaged, or holds what an expert buffer cannot, such as continuous actions.
    """
    folder = store.find_vault(path)
    metadata = store.metadata_of(folder)
    stores, steps = store.open_stores(folder, metadata)
    _check_shapes(folder, stores)
    text = metadata.get(store.MANIFEST_KEY)
    if text is not None:
        yield reimport(
            folder, stores, steps, metadata, parse_embedded_manifest(str(text), str(path))
        )
    else:
        yield _import_foreign(folder, path, stores, steps, options)


def _check_shapes(folder: Path, stores: VaultArrays) -> None:
    leaves = stores.leaves
    if absent := [name for name in _REQUIRED_LEAVES if name not in leaves]:
        raise foreign_error(folder, f"it has no leaf {', '.join(absent)}")
    observed, actions = leaves["observations"], leaves["actions"]
    if observed.ndim != len("BTNO"):
        raise foreign_error(folder, f"observations have {observed.ndim} axes instead of B, T, N, O")
    if actions.ndim not in (len("BTN"), len("BTNA")):
        raise foreign_error(folder, f"actions have {actions.ndim} axes instead of B, T, N")
    if (mask := legal_actions_leaf(stores)) is not None and leaves[mask].ndim != len("BTNA"):
        raise foreign_error(folder, f"{mask} has {leaves[mask].ndim} axes instead of B, T, N, A")
    by_agent = (*_REQUIRED_LEAVES, *([mask] if mask else []))
    agents = {leaf.shape[2] for name, leaf in leaves.items() if name in by_agent and leaf.ndim > 2}
    streams = {leaf.shape[0] for leaf in leaves.values()}
    if len(agents) != 1 or len(streams) != 1:
        raise foreign_error(folder, "its leaves differ in the numbers of agents or of streams")


@dataclass(slots=True)
class _Survey:
    """The results of the first pass over all steps."""

    lengths: list[Array] = field(default_factory=list)  # of the episodes, by stream
    highest: int = 0
    legality: LegalityCount = field(default_factory=lambda: LegalityCount(""))
    unfinished: int = 0
    uneven: int = 0
    truncated: bool = False
    padding: Array | None = None  # bool [N, O], -inf in every step
    infinite: int = 0


def _import_foreign(
    folder: Path, path: Path, stores: VaultArrays, steps: int, options: ConvertOptions
) -> ImportedDataset:
    survey = _survey(folder, stores, steps)
    if not any(map(len, survey.lengths)):
        raise foreign_error(
            folder, "no episode ends in it: terminals and truncations are never true"
        )
    survey.legality.check(folder)
    spec = environment_spec(_inferred_environment(stores, survey, path), options)
    return ImportedDataset(
        header=import_header(spec, folder, "vault", options),
        blocks=_blocks(stores, survey, spec),
        steps=sum(int(lengths.sum()) for lengths in survey.lengths),
        masks=full_mask(spec),
        not_held=tuple(_not_held(stores, survey)),
        notes=tuple(_notes(stores, survey)),
    )


def _survey(folder: Path, stores: VaultArrays, steps: int) -> _Survey:
    survey, streams = _Survey(), stores.leaves["actions"].shape[0]
    for stream in range(streams):
        ended = []
        for start, stop in row_ranges(steps, stores.rows):
            end, uneven = episode_ends(stores, stream, start, stop)
            ended.append(end)
            survey.uneven += uneven
            _survey_window(folder, stores, survey, stream, start, stop)
        stops = np.flatnonzero(np.concatenate(ended or [np.zeros(0)])) + 1
        survey.lengths.append(np.diff(stops, prepend=0))
        survey.unfinished += steps - (int(stops[-1]) if len(stops) else 0)
    return survey


def _survey_window(
    folder: Path, stores: VaultArrays, survey: _Survey, stream: int, start: int, stop: int
) -> None:
    if "truncations" in stores.leaves:
        survey.truncated |= bool(stores.read("truncations", stream, start, stop).any())
    for name in ("terminals", "truncations"):
        if name in stores.leaves:
            boolean_array(folder, name, stores.read(name, stream, start, stop))
    actions = _actions(stores, stream, start, stop)
    if actions.size and actions.min() < 0:
        raise foreign_error(folder, f"an action is {actions.min()}, below zero")
    survey.highest = max(survey.highest, int(actions.max(initial=0)))
    if (mask := legal_actions_leaf(stores)) is not None:
        legal = legal_actions(folder, mask, stores.read(mask, stream, start, stop))
        if actions.max(initial=0) >= legal.shape[-1]:
            raise foreign_error(folder, f"an action is beyond the width of {mask}")
        survey.legality.name = mask
        survey.legality.add(legal, actions)
    observed = stores.read("observations", stream, start, stop)
    padding = np.isneginf(observed)
    if not (np.isfinite(observed) | padding).all():
        raise foreign_error(folder, "observations hold numbers that are not finite")
    survey.infinite += int(padding.sum())
    always = np.asarray(padding.all(axis=0))
    survey.padding = always if survey.padding is None else survey.padding & always


def _inferred_environment(stores: VaultArrays, survey: _Survey, path: Path) -> InferredEnvironment:
    agents, width = stores.leaves["observations"].shape[2:]
    mask = legal_actions_leaf(stores)
    count = survey.highest + 1 if mask is None else stores.leaves[mask].shape[-1]
    state = stores.leaves.get("infos/state")
    padding = survey.padding if survey.padding is not None else np.zeros((agents, width), bool)
    return InferredEnvironment(
        obs_widths=[_width(row) for row in padding],
        action_counts=[count] * agents,
        longest=max(int(lengths.max(initial=0)) for lengths in survey.lengths),
        state_width=int(np.prod(state.shape[2:])) if state is not None else 0,
        exact=mask is not None,
        name=path.stem if path.suffix == ".vlt" else path.parent.stem,
    )


def _width(padding: Array) -> int:
    """Return the width of an agent's observation without columns that are always padding."""
    used_columns = np.flatnonzero(~padding)
    return int(used_columns[-1]) + 1 if len(used_columns) else 1


def _blocks(stores: VaultArrays, survey: _Survey, spec: EnvironmentSpec) -> Iterator[EpisodeBlock]:
    for stream, lengths in enumerate(survey.lengths):
        stops = np.cumsum(lengths)
        for first, last in episode_ranges(lengths):
            start, stop = int(stops[first] - lengths[first]), int(stops[last - 1])
            steps = _steps(stores, stream, start, stop, spec)
            # If only some agents are terminated, the episode was truncated.
            ended = stops[first:last] - 1 - start
            steps["truncated"][ended] |= ~steps["terminated"][ended]
            yield EpisodeBlock(steps=steps, episodes={"length": lengths[first:last]})


def _steps(
    stores: VaultArrays, stream: int, start: int, stop: int, spec: EnvironmentSpec
) -> dict[str, Array]:
    rows, agents = stop - start, spec.n_agents
    actions = _actions(stores, stream, start, stop)
    observed = stores.read("observations", stream, start, stop).astype(np.float32)
    ended, _ = episode_ends(stores, stream, start, stop)
    terminated = _terminated(stores, stream, start, stop) & ended
    steps = {
        "obs": np.where(np.isneginf(observed), np.float32(0), observed),
        "actions": actions.astype(np.int16),
        "available_actions": _legal_actions(stores, stream, start, stop, spec, actions),
        "alive": np.ones((rows, agents), np.bool_),
        "reward": _rewards(stores.read("rewards", stream, start, stop), agents),
        "terminated": terminated,
        "truncated": ended & (_truncated(stores, stream, start, stop) | ~terminated),
    }
    if "infos/state" in stores.leaves and not spec.state_is_obs:
        state = stores.read("infos/state", stream, start, stop).reshape(rows, -1)
        steps["state"] = np.where(np.isneginf(state), 0, state).astype(np.float32)
    return steps


def _terminated(stores: VaultArrays, stream: int, start: int, stop: int) -> Array:
    done = stores.read("terminals", stream, start, stop).reshape(stop - start, -1)
    return np.asarray((done != 0).all(axis=1))


def _truncated(stores: VaultArrays, stream: int, start: int, stop: int) -> Array:
    if "truncations" not in stores.leaves:
        return np.zeros(stop - start, np.bool_)
    cut = stores.read("truncations", stream, start, stop).reshape(stop - start, -1)
    return np.asarray((cut != 0).all(axis=1))


def legal_actions_leaf(stores: VaultArrays) -> str | None:
    """Return the leaf of the legal actions, in ``infos`` or at the top, or None."""
    inside = find_mask_name(
        n.removeprefix("infos/") for n in stores.leaves if n.startswith("infos/")
    )
    return f"infos/{inside}" if inside else find_mask_name(stores.leaves)


def _legal_actions(
    stores: VaultArrays, stream: int, start: int, stop: int, spec: EnvironmentSpec, actions: Array
) -> Array:
    exists = np.arange(spec.action_count) < np.array(spec.action_counts)[:, None]
    if (mask := legal_actions_leaf(stores)) is None:
        return np.broadcast_to(exists, (stop - start, *exists.shape)).copy()
    legal = legal_actions(stores.folder, mask, stores.read(mask, stream, start, stop)) & exists
    return with_executed_legal(legal, actions)


def _actions(stores: VaultArrays, stream: int, start: int, stop: int) -> Array:
    """Return the actions of every agent, int64 [n, N]; several columns must be one-hot."""
    actions = stores.read("actions", stream, start, stop)
    if actions.ndim == len("TNA") and actions.shape[-1] > 1:
        if not is_one_hot(actions):
            what = f"its actions are continuous ({actions.dtype} {list(actions.shape[1:])})"
            raise foreign_error(stores.folder, what, "only discrete actions can be distilled")
        return np.asarray(actions.argmax(axis=-1), np.int64)
    return discrete_actions(stores.folder, "its actions", actions.reshape(len(actions), -1))


def _rewards(rewards: Array, agents: int) -> Array:
    columns = rewards.reshape(len(rewards), -1).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(columns, (len(rewards), agents)))


def _not_held(stores: VaultArrays, survey: _Survey) -> Iterator[NotHeld]:
    for name in stores.leaves:
        if name not in (*_READ_LEAVES, legal_actions_leaf(stores)):
            yield NotHeld(array=name, why="the expert buffer has no array of this meaning")
    for name in ("observations", "rewards"):
        yield from rounding_losses(name, stores.leaves[name].dtype.numpy_dtype)
    yield from survey.legality.not_held()


def _notes(stores: VaultArrays, survey: _Survey) -> Iterator[str]:
    def any_true(condition: object, note: str) -> Sequence[str]:
        return [note] if condition else []

    leaves = stores.leaves
    yield from any_true(
        survey.infinite, f"{survey.infinite} observed values of -inf are padding: they became zeros"
    )
    yield from any_true(
        legal_actions_leaf(stores) is None, "there are no legals: every action counts as legal"
    )
    yield from any_true(
        survey.unfinished,
        f"{survey.unfinished} steps after the last end of an episode were left out",
    )
    yield from any_true(
        survey.uneven,
        f"in {survey.uneven} steps only some agents were done: an episode ends when all are",
    )
    state = leaves.get("infos/state")
    yield from any_true(
        state is not None and state.ndim > len("BTS"), "the states of the agents were joined"
    )
    yield from any_true(
        not survey.truncated,
        "truncations are never true: ends by a time limit look as terminations",
    )


def reimport(
    folder: Path,
    stores: VaultArrays,
    steps: int,
    metadata: Mapping[str, Any],
    manifest: DatasetManifest,
) -> ImportedDataset:
    """Return the exported dataset; ``manifest`` is the one embedded in the vault."""
    absent = [
        n for n in map(store.leaf_name, _arrays_with_leaf(manifest)) if n not in stores.leaves
    ]
    if absent:
        raise foreign_error(folder, f"its manifest promises the leaves {', '.join(absent)}")
    ends = np.concatenate(
        [store.episode_ends(stores, 0, a, b)[0] for a, b in row_ranges(steps)] or [np.zeros(0)]
    )
    stops = np.flatnonzero(ends) + 1
    lengths = np.diff(stops, prepend=0)
    codes = _rows_of_leaf(stores, "episodes/split", stops - 1).astype(np.uint8)
    masks = {n: np.asarray(m, np.bool_) for n, m in _fixed_masks(folder, metadata).items()}
    for name in manifest.arrays:
        if name.startswith("masks/") and store.leaf_name(name) in stores.leaves:
            masks[name.removeprefix("masks/")] = _rows_of_leaf(stores, name, stops - 1)
    return ImportedDataset(
        header=recording_header(manifest),
        blocks=_exported_blocks(stores, manifest, lengths),
        steps=steps,
        manifest=manifest,
        splits=splits_from_manifest(manifest, codes),
        masks=masks,
    )


def _arrays_with_leaf(manifest: DatasetManifest) -> list[str]:
    """Return the arrays of which the vault must have a leaf."""
    return [
        name
        for name, spec in manifest.arrays.items()
        if name != "episodes/length"
        and (name == "episodes/split" or not rule_for(name, len(spec.shape)).derived)
        and not (name.startswith("masks/") and len(spec.shape) == len("NO"))
    ]


def _fixed_masks(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        masks = json.loads(metadata.get(store.MASKS_KEY, "{}"))
    except (ValueError, TypeError, RecursionError):
        raise foreign_error(folder, f"{store.MASKS_KEY} in its metadata.json is damaged") from None
    return dict(masks)


def _rows_of_leaf(stores: VaultArrays, name: str, rows: Array) -> Array:
    """Return the given rows [n] of a leaf, in one pass over it."""
    parts = []
    for start, stop in row_ranges(int(rows[-1]) + 1 if len(rows) else 0):
        rows_in_window = rows[(rows >= start) & (rows < stop)] - start
        parts.append(stores.read(store.leaf_name(name), 0, start, stop)[rows_in_window])
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _exported_blocks(
    stores: VaultArrays, manifest: DatasetManifest, lengths: Array
) -> Iterator[EpisodeBlock]:
    stops = np.cumsum(lengths)
    names = [name for name in _arrays_with_leaf(manifest) if name != "episodes/split"]
    for first, last in episode_ranges(lengths):
        start = int(stops[first] - lengths[first])
        rows = stops[first:last] - 1 - start
        parts: dict[str, dict[str, Array]] = {"steps": {}, "final": {}, "episodes": {}}
        parts["episodes"]["length"] = lengths[first:last]
        for name in names:
            group, short = name.split("/", 1)
            if group in parts:
                values = stores.read(store.leaf_name(name), 0, start, int(stops[last - 1]))
                parts[group][short] = _original(name, values, rows)
        yield EpisodeBlock(**parts)


def _original(name: str, values: Array, ends: Array) -> Array:
    """Return the values of an array from those of its leaf."""
    if name in ("steps/terminated", "steps/truncated"):
        return values[:, 0]
    if name.startswith("steps/"):
        return values
    values = values[ends]
    if name == "episodes/seed":
        return np.ascontiguousarray(values).view("<u8")[..., 0]
    return values
