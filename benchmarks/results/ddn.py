"""The cells of the page on the Double Distillation Network, as data, and the paper's tables.

The board is smaller than the paper's, so that one training takes about a minute of a core: 6 x 6
cells, four predators and four prey, windows of 3 x 3 cells, 60 steps. The best team return is 20.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.results.plan import DistilledCell, NetworkCell, Study, Task

ALGORITHMS = ("vdn", "qmix", "qatten", "qplex", "wqmix", "qtran")
PENALTIES = {"prey-half": 0.5, "prey-two": 2.0, "prey-none": 0.0}
SEEDS = (0, 1, 2)
FRAMES = 60_000
BOARD = (
    ("size", 6),
    ("n_predators", 4),
    ("n_prey", 4),
    ("view", 3),
    ("episode_limit", 60),
)
TRAINING = (
    ("episodes_per_batch", 32),
    ("q_learning.updates_per_batch", 8),
    ("q_learning.batch_episodes", 32),
    ("q_learning.epsilon_frames", 30_000),
)
TASKS = tuple(
    Task(
        "grid/predator_prey",
        slug,
        FRAMES,
        dataset_episodes=512,
        epochs=20,
        mixed_widths=(64,) * 4,
        training=TRAINING,
        environment=(*BOARD, ("lone_penalty", penalty)),
        bundled=False,
    )
    for slug, penalty in PENALTIES.items()
)


def network_cells(task: Task) -> list[NetworkCell]:
    """Return every algorithm of value decomposition, three seeds of each."""
    return [
        NetworkCell(task, "full", None, seed, algorithm=algorithm)
        for seed in SEEDS
        for algorithm in ALGORITHMS
    ]


def distilled_cells(task: Task) -> list[DistilledCell]:
    """Return nothing: no teacher of this page is distilled yet."""
    return []


DDN = Study(
    work=Path("results/work-ddn"),
    cells=Path("docs/results/ddn"),
    tasks=TASKS,
    networks=network_cells,
    distilled=distilled_cells,
    episodes=1000,
)
