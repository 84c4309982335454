"""Registry of perturbations by name; see :mod:`kd_offline.robustness.perturbations.base`.

An audit plays them in the order of this table; plug-ins follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_offline.registry import Registry

if TYPE_CHECKING:
    from kd_offline.robustness.perturbations.base import Perturbation

_HERE = "kd_offline.robustness.perturbations"

PERTURBATIONS: Registry[type[Perturbation]] = Registry(
    "perturbation",
    "kd_offline.perturbations",
    {
        "noise": f"{_HERE}.observations:Noise",
        "drop": f"{_HERE}.observations:DroppedBlocks",
        "stuck": f"{_HERE}.observations:StuckSensors",
        "fgsm": f"{_HERE}.gradients:Fgsm",
        "pgd": f"{_HERE}.gradients:Pgd",
        "delay": f"{_HERE}.actions:Delay",
        "sticky": f"{_HERE}.actions:Sticky",
        "dead": f"{_HERE}.teammates:Dead",
        "frozen": f"{_HERE}.teammates:Frozen",
        "random": f"{_HERE}.teammates:RandomAgents",
        "adversarial": f"{_HERE}.teammates:Adversarial",
    },
)
