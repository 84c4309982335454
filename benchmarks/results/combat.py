"""The cells of the page on combat, as data: the KD-MARL paper's Table I, and what it says.

Units of the ``paper`` mask that see one kind of thing get a width of 16 in mixed teams (LH+A), the
others 32.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.results.plan import (
    RECIPES,
    RIVAL_SEEDS,
    TWO_STEPS,
    DistilledCell,
    NetworkCell,
    Study,
    Task,
    masked_expert,
)

MASK = "paper"
HALF = "half the episodes"
RL_SEEDS = (0,)
NARROW, WIDE, FULL = 16, 32, 128
# Where QMIX and VDN are trained under the mask as well; elsewhere QMIX FO alone is.
_BASELINES = ("3m", "3s5z")
# Where students of the expert itself keep less than the goal: in two steps, a network of full size
# learned to play under the mask, with the expert as its teacher at first, and is distilled.
_TWO_STEPS = ("3m", "8m", "5m-vs-6m")
# Where a network of full size is trained under the mask without the expert as well. On 5m_vs_6m
# reward alone wins little even in full view (docs/decisions/012-kickstarting.md).
_CEILINGS = ("3m", "8m", "3s5z")
# Where networks of the students' size are trained under the mask with the expert as their teacher.
_TAUGHT = ("3m",)
# How many times fewer FLOPs than MAPPO FO the goals ask for, and the largest width of all agents at
# which their team has as many fewer.
FEWER = 40
NARROWEST = {"3m": 14, "8m": 9, "5m-vs-6m": 7, "3s5z": 9}


def _task(name: str, slug: str, episodes: int, widths: tuple[int, ...], *algorithms: str) -> Task:
    recipes = [("mappo", RECIPES / "bundled" / f"smax-{slug}-default.toml")]
    recipes += [(name, RECIPES / "train" / f"{name}-{slug}.toml") for name in algorithms]
    taught = RECIPES / "train" / f"taught-small-{slug}.toml" if slug in _TAUGHT else None
    return Task(f"smax/{name}", slug, None, episodes, 10, widths, tuple(recipes), taught=taught)


TASKS = (
    _task("3m", "3m", 30_000, (NARROW, NARROW, WIDE), "qmix", "vdn"),
    _task("8m", "8m", 8_000, (*(NARROW,) * 5, *(WIDE,) * 3), "qmix"),
    _task("5m_vs_6m", "5m-vs-6m", 30_000, (NARROW, NARROW, WIDE, NARROW, WIDE), "qmix"),
    _task(
        "3s5z",
        "3s5z",
        5_000,
        (NARROW, WIDE, *(NARROW,) * 3, *(WIDE,) * 3),
        *("qmix", "vdn"),
    ),
)


def network_cells(task: Task) -> list[NetworkCell]:
    """Return FO, LH and LH+A of every algorithm, and full size under the mask as its ceiling.

    The expert itself is MAPPO FO. It and the network of the first of two steps are bundled. Where
    the task says how, LH is also trained with the expert as its teacher.
    """
    wide = (WIDE,) * len(task.mixed_widths)
    everything, masked = [("full", None)], [(MASK, wide), (MASK, task.mixed_widths)]
    kinds = {
        algorithm: everything + (masked if task.slug in _BASELINES else [])
        for algorithm, _ in task.recipes
    }
    ceiling = [(MASK, None)] if task.slug in _CEILINGS else []
    kinds["mappo"] = [*everything, *masked, *ceiling]
    cells = [
        NetworkCell(
            *(task, mask, widths, seed),
            algorithm=algorithm,
            bundled="default" if (algorithm, mask) == ("mappo", "full") else None,
        )
        for seed in RL_SEEDS
        for algorithm, each in kinds.items()
        for mask, widths in each
    ]
    first = [first_step(task)] if task.slug in _TWO_STEPS else []
    taught = [
        NetworkCell(task, MASK, wide, seed, teacher="bundled")
        for seed in RIVAL_SEEDS
        if task.taught
    ]
    return [*cells, *first, *taught]


def first_step(task: Task) -> NetworkCell:
    """Return the network that is distilled where students of the expert keep too little."""
    return masked_expert(task, MASK)


def narrow(task: Task) -> tuple[int, ...]:
    """Return the widths of the largest teams that need 40 times fewer FLOPs than the expert."""
    return (NARROWEST[task.slug],) * len(task.mixed_widths)


def distilled_cells(task: Task) -> list[DistilledCell]:
    """Return KD-MARL of all sizes, plain KL, BC, two steps, and what tells why no more is kept.

    The latter are KD-MARL LH without the mask, with networks as wide as the expert's, and from half
    of the episodes.
    """
    wide, full = ((width,) * len(task.mixed_widths) for width in (WIDE, FULL))
    sizes = (wide, task.mixed_widths, narrow(task))
    kinds = [*(("kd-marl", widths) for widths in sizes), ("kl", wide), ("bc", wide)]
    masked = [
        DistilledCell(task, MASK, *kind, heat=task.slug == "3s5z" and kind in kinds[:2])
        for kind in kinds
    ]
    few, half = (0, 1, 2), task.dataset_episodes // 2
    second = [
        DistilledCell(task, MASK, "kd-marl", widths, label=TWO_STEPS, expert=first_step(task))
        for widths in sizes
        if task.slug in _TWO_STEPS
    ]
    return [
        *masked,
        *second,
        DistilledCell(task, "full", "kd-marl", wide),
        DistilledCell(task, MASK, "kd-marl", full, seeds=few[:1]),
        DistilledCell(task, MASK, "kd-marl", wide, label=HALF, seeds=few, episodes=half),
    ]


# Which share of the expert's win rate KD-MARL LH should keep.
GOALS = {"3m": 0.97, "8m": 0.97, "5m-vs-6m": 0.92, "3s5z": 0.92}

COMBAT = Study(
    work=Path("results/work-combat"),
    cells=Path("docs/results/combat"),
    tasks=TASKS,
    networks=network_cells,
    distilled=distilled_cells,
    episodes=1000,
    latency_rounds=50,
)

# KD-MARL (arXiv 2604.06691), Table I, as printed: return (of 20), win rate in percent, time of a
# step in ms. The paper states no episodes and no seeds, and its game is SMAC.
PAPER_COLUMNS = (
    *(
        f"{algorithm} {size}"
        for algorithm in ("MAPPO", "QMIX", "VDN")
        for size in ("FO", "LH", "LH+A")
    ),
    "KD-MARL LH",
    "KD-MARL LH+A",
)
PAPER: dict[str, dict[str, tuple[float, ...]]] = {
    "3m": {
        "return": (19.8, 18.2, 15.0, 19.6, 16.0, 12.5, 18.0, 13.5, 9.0, 18.6, 18.0),
        "won": (98.12, 92.65, 80.34, 98.77, 86.34, 70.27, 85.42, 68.31, 52.12, 94.78, 90.39),
        "ms": (6.5, 6.2, 6.3, 6.6, 5.9, 3.8, 6.0, 5.4, 4.3, 5.5, 4.1),
    },
    "8m": {
        "return": (17.0, 14.0, 10.0, 16.0, 12.5, 8.5, 15.0, 10.0, 6.0, 17.8, 17.6),
        "won": (89.91, 77.82, 60.07, 92.19, 64.78, 48.13, 75.32, 52.11, 33.05, 88.97, 88.23),
        "ms": (21.5, 22.0, 21.8, 21.9, 18.1, 10.8, 19.0, 17.2, 15.0, 17.3, 15.8),
    },
    "5m-vs-6m": {
        "return": (18.0, 16.5, 13.0, 19.1, 14.0, 10.0, 16.0, 11.0, 7.0, 16.8, 16.5),
        "won": (61.85, 58.09, 44.78, 58.93, 50.12, 38.79, 50.10, 38.22, 25.14, 58.66, 56.15),
        "ms": (12.0, 14.0, 12.7, 12.3, 10.5, 6.2, 11.0, 10.2, 8.2, 10.0, 8.0),
    },
    "3s5z": {
        "return": (18.5, 16.8, 13.5, 18.7, 15.0, 10.5, 16.5, 11.0, 7.0, 17.2, 16.5),
        "won": (68.31, 55.66, 42.54, 60.48, 50.12, 36.95, 53.42, 40.33, 24.12, 60.28, 58.17),
        "ms": (11.5, 13.5, 12.2, 12.0, 10.2, 6.0, 10.8, 9.8, 8.0, 9.7, 7.9),
    },
}
