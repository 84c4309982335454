"""Estimate the size of a recording and compare it with the free disk space before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from kd_offline.datasets.metadata.summary import format_bytes
from kd_offline.errors import StorageError
from kd_offline.experts.protocol import Expert
from kd_offline.schemas.environment import EnvironmentSpec

_USUAL_WIDTH = 128  # assumed width of embeddings where the expert does not state it


def step_bytes(spec: EnvironmentSpec, embedding_width: int, embedding_bytes: int) -> int:
    """Return the uncompressed bytes of one joint step, an upper bound of its stored size.

    Per agent: observation, logits, embedding, value, reward and log-probability, action, legal
    actions and whether it is alive. The state is counted once, where it is not the observations.
    """
    agents, actions = spec.n_agents, max(spec.action_counts)
    agent_bytes = 4 * max(spec.obs_widths) + 5 * actions + embedding_width * embedding_bytes + 15
    return agents * agent_bytes + (0 if spec.state_is_obs else 4 * spec.state_width)


def check_space(
    output: str | Path,
    actor: Expert,
    spec: EnvironmentSpec,
    episodes: int,
    embedding_dtype: str,
    *,
    resume: bool,
) -> str:
    """Return a sentence with the largest possible size; raise if the disk has less space.

    With ``resume`` the existing files count as free space.

    Raises
    ------
    StorageError
        The disk has less space than the recording may need.
    """
    episode_bytes = spec.episode_limit * step_bytes(
        spec, actor.embedding_width or _USUAL_WIDTH, 2 if embedding_dtype == "float16" else 4
    )
    target = Path(output).expanduser().absolute()
    existing = sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) if resume else 0
    existing_folder = next(folder for folder in (target, *target.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing_folder).free
    total = format_bytes(episode_bytes * episodes)
    if episode_bytes * episodes > free_bytes + existing:
        fitting_episodes = (free_bytes + existing) // episode_bytes
        advice = f" or record {fitting_episodes:,} episodes" if fitting_episodes else ""
        msg = (
            f"{episodes:,} episodes may take {total}, and the disk of "
            f"{str(existing_folder)!r} has {format_bytes(free_bytes)} free: free space, choose "
            f"another folder{advice}"
        )
        raise StorageError(msg)
    return (
        f"recording {episodes:,} episodes of {spec.id} into {output}: {total} "
        "at most; fewer episodes take less room and time"
    )
