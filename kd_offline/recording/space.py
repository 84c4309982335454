"""What a recording will write, told and compared with the free disk before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from kd_offline.datasets.metadata.summary import format_bytes
from kd_offline.errors import StorageError
from kd_offline.experts.protocol import Expert
from kd_offline.schemas.environment import EnvironmentSpec

_USUAL_WIDTH = 128  # of the embeddings of an expert whose width is seen only when it acts


def step_bytes(spec: EnvironmentSpec, embedding_width: int, embedding_bytes: int) -> int:
    """Return the bytes of one joint step before compression; random bits hardly shrink.

    Per agent: observation, logits, embedding, value, reward and log-probability, action, legal
    actions and whether it is alive; the state once, where it is not the observations.
    """
    agents, actions = spec.n_agents, max(spec.action_counts)
    each = 4 * max(spec.obs_widths) + 5 * actions + embedding_width * embedding_bytes + 15
    return agents * each + (0 if spec.state_is_obs else 4 * spec.state_width)


def check_space(
    output: str | Path,
    actor: Expert,
    spec: EnvironmentSpec,
    episodes: int,
    embedding_dtype: str,
    *,
    resume: bool,
) -> str:
    """Return a sentence of what will be written, at most; refuse what cannot fit.

    With ``resume`` what is there already needs no room.

    Raises
    ------
    StorageError
        The disk has less room than the recording may need.
    """
    one = spec.episode_limit * step_bytes(
        spec, actor.embedding_width or _USUAL_WIDTH, 2 if embedding_dtype == "float16" else 4
    )
    target = Path(output).expanduser().absolute()
    there = sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) if resume else 0
    place = next(folder for folder in (target, *target.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if one * episodes > free + there:
        fits = (free + there) // one
        fewer = f" or record {fits:,} episodes" if fits else ""
        msg = (
            f"{episodes:,} episodes may take {format_bytes(one * episodes)}, and the disk of "
            f"{str(place)!r} has {format_bytes(free)} free: free space, choose another "
            f"folder{fewer}"
        )
        raise StorageError(msg)
    return (
        f"recording {episodes:,} episodes of {spec.id} into {output}: "
        f"{format_bytes(one * episodes)} at most; fewer episodes take less room and time"
    )
