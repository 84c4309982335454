"""Export to the HDF5 format of d3rlpy 2.1: one agent, a few arrays for every episode."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kd_offline.datasets.convert import untrusted_hdf5
from kd_offline.datasets.convert.hdf5_writing import create_hdf5
from kd_offline.datasets.convert.interchange import (
    ConvertOptions,
    agent_index,
    episode_blocks,
)
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import Remedy, UsageError
from kd_offline.tracking.base import Observer

VERSION = "2.1"
_COLUMNS = ("observations", "actions", "rewards", "terminated")
_READ = ("steps/obs", "steps/actions", "steps/reward", "steps/terminated", "episodes/length")
_ONLY = "d3rlpy keeps observations, actions, rewards and ends only"

CANNOT_HOLD: dict[str, str] = {
    "manifest": "d3rlpy keeps no description",
    "masks/*": "d3rlpy has no student masks",
    "steps/obs_full": "d3rlpy has one observation of an agent",
    "final/*": "d3rlpy has no observation after the last step",
    **dict.fromkeys(
        (f"steps/{name}" for name in ("state", "available_actions", "alive", "behaviour_logprob")),
        _ONLY,
    ),
    **dict.fromkeys(("steps/action_source", "steps/logits", "steps/q_values"), _ONLY),
    **dict.fromkeys(("steps/embedding*", "steps/value"), _ONLY),
    **dict.fromkeys(("steps/q_tot*", "steps/mixer_credit"), _ONLY),
    **dict.fromkeys(
        (f"episodes/{n}" for n in ("seed", "won", "noise_level", "expert_id", "split")), _ONLY
    ),
}


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is an HDF5 file in d3rlpy's format."""
    if not untrusted_hdf5.is_hdf5(path):
        return False
    with untrusted_hdf5.open_hdf5(path) as file:
        return {"columns", "num_episodes", "version"} <= set(untrusted_hdf5.member_names(file))


def write(
    buffer: ExpertBuffer, path: Path, options: ConvertOptions, observer: Observer
) -> list[str]:
    """Write one agent's episodes as d3rlpy's ``ReplayBuffer.dump`` does."""
    n = agent_index(buffer.spec, options.agent)
    if n is None:
        msg = f"d3rlpy holds one agent, and the dataset has {', '.join(buffer.spec.agents)}"
        raise UsageError(msg, Remedy("choose one with", agent=...))
    done, width = 0, buffer.spec.obs_widths[n]
    with create_hdf5(path) as file:
        file.create_dataset("columns", data=list(_COLUMNS))
        file.create_dataset("num_episodes", data=buffer.n_episodes)
        file.create_dataset("version", data=VERSION)
        for first, block in episode_blocks(buffer, _READ):
            stops, steps = np.cumsum(block.lengths), block.steps
            for k, stop in enumerate(stops):
                rows = slice(int(stop - block.lengths[k]), int(stop))
                values = (
                    steps["obs"][rows, n, :width],
                    steps["actions"][rows, n, None].astype(np.int64),
                    steps["reward"][rows, n, None],
                    bool(steps["terminated"][stop - 1]),
                )
                for column, value in zip(_COLUMNS, values, strict=True):
                    file.create_dataset(f"{column}_{first + k}", data=value)
            done += int(stops[-1])
            observer.progress(done, buffer.n_steps, "steps")
    return []
