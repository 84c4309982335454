"""Import a Minari dataset that our exporter wrote, without loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert import untrusted_hdf5
from kd_offline.datasets.convert.embedded_manifest import splits_from_manifest
from kd_offline.datasets.convert.interchange import ImportedDataset, foreign_error
from kd_offline.datasets.convert.minari.store import (
    ATTRIBUTE_PREFIX,
    EPISODE_MASKS_GROUP,
    MASKS_KEY,
    attribute,
    episode_blocks_from,
    values_of,
)
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import recording_header
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.types import Array


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
