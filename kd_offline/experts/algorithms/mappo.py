"""MAPPO (Yu et al., 2022, arXiv 2103.01955): clipped policy updates, critics that see the state."""

from __future__ import annotations

from kd_offline.experts.algorithms.clipped_policy import ClippedPolicy

ALGORITHM = ClippedPolicy("clipped policy updates with a critic that sees the state")
