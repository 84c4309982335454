"""Whether ``final/value`` may stand for the future behind a time limit."""

from __future__ import annotations

from kd_offline.schemas.dataset import DatasetManifest


def caution(manifest: DatasetManifest) -> str | None:
    """Return why nothing may be bootstrapped from ``final/value``, or None where it may be.

    A critic that took nothing to follow a time limit met the view behind it only as an end, so
    what it says of that view was never trained.
    """
    if "final/value" not in manifest.arrays or not manifest.experts:
        return None
    learned = {expert.bootstraps_truncation for expert in manifest.experts}
    if learned == {True}:
        return None
    if False in learned:
        return (
            "the critic never learned the views of final/value, those after a time limit: "
            "do not bootstrap from it"
        )
    return (
        "it is not known whether the critic learned the views of final/value: "
        "do not bootstrap from it"
    )
