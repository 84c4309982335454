"""What the held-out figures of a run are of, in words."""

from __future__ import annotations

from kd_offline.schemas.run import RunManifest


def judged(manifest: RunManifest) -> str:
    """Return which episodes a run's held-out figures are of, or that nothing was held out."""
    found = manifest.judged_by
    if found is not None:
        few = "" if found.episodes > 1 else ", too few to tell anything from"
        episodes = "episode" if found.episodes == 1 else "episodes"
        return f"judged by {found.episodes:,} held-out {episodes} (part {found.part!r}){few}"
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
