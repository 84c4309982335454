"""Describe the episodes behind a run's held-out metrics."""

from __future__ import annotations

from kd_offline.schemas.run import RunManifest


def judged(manifest: RunManifest) -> str:
    """Return in words which held-out episodes a run was judged by, or that there were none."""
    if manifest.training is not None:
        return (
            "after the distillation these students learned from reward and expert in their own "
            "play (ppd), so no figure of held-out episodes is theirs: evaluate them"
        )
    held_out = manifest.judged_by
    if held_out is not None:
        warning = "" if held_out.episodes > 1 else ", too few to tell anything from"
        episodes = "episode" if held_out.episodes == 1 else "episodes"
        return (
            f"judged by {held_out.episodes:,} held-out {episodes} (part {held_out.part!r}){warning}"
        )
    if manifest.states_judges:
        return (
            "nothing was held out: no figure tells how these students do on unseen episodes, and "
            "the weights of the last epoch are kept; split the dataset, or set judge_by to "
            "one of its parts"
        )
    return (
        "an older version made this run: where its dataset held out no episode, figures called "
        "held out are of training episodes"
    )
