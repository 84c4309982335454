"""The cells of the page on the Double Distillation Network, as data, and the paper's tables.

The board is smaller than the paper's, so that one training takes about a minute of a core: 6 x 6
cells, four predators and four prey, windows of 3 x 3 cells, 60 steps. The best team return is 20.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.results.plan import DistilledCell, NetworkCell, Study, Task

LOCAL = "local"
ALGORITHMS = ("vdn", "qmix", "qatten", "qplex", "wqmix", "qtran")
PENALTIES = {"prey-half": 0.5, "prey-two": 2.0, "prey-none": 0.0}
WITH_DDN = "prey-half"
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
    """Return every algorithm of value decomposition and both networks of DDN, three seeds each.

    DDN learns through QMIX's mixer, its default, and with one penalty alone.
    """
    kinds: list[tuple[str, str | None]] = [(algorithm, None) for algorithm in ALGORITHMS]
    if task.slug == WITH_DDN:
        kinds += [("ddn", None), ("ddn", LOCAL)]
    return [
        NetworkCell(task, "full", None, seed, algorithm=algorithm, part=part)
        for seed in SEEDS
        for algorithm, part in kinds
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

# The paper (Zhou et al., Double Distillation Network for MARL), win rates on SMAC, six runs each.
# Table 1: alone and with DDN.
PAPER_WITH_DDN = {
    ("VDN", "3s_vs_5z"): (0.9089, 0.9453),
    ("VDN", "MMM2"): (0.0352, 0.3229),
    ("Qatten", "3s_vs_5z"): (0.6510, 0.8945),
    ("Qatten", "MMM2"): (0.6615, 0.7422),
}
# Table 2: teacher and student, as printed; None where the paper has no figure.
PAPER_MAPS = ("3s_vs_5z", "5m_vs_6m", "MMM2", "3s5z_vs_3s6z")
PAPER_TWO_PHASES = {
    "IGM-DA": (None, (0.5048, 0.3815), (0.5607, 0.1312), None),
    "CTDS": (None, (0.6690, 0.4810), (0.8060, 0.2810), None),
    "PTDE": ((0.9920, 0.8870), (0.8060, 0.6900), None, (0.7760, 0.6740)),
    "DDN": ((0.9701, 0.9323), (0.7188, 0.5404), (0.8789, 0.6042), (0.8776, 0.4010)),
}
# Table 4: fewer of the losses L_B, L_Q and L_F (its ticks are lost) and all three.
PAPER_LOSSES = {"3s_vs_5z": (0.9219, 0.9323), "MMM2": (0.4258, 0.6042)}
# Table 5: win rates by the probability of the mask of intrinsic rewards; None: none given.
PAPER_PROBABILITIES = (None, 0.10, 0.25, 0.50, 0.75, 0.90)
PAPER_INTRINSIC = {
    "3s_vs_5z": (0.9518, 0.9219, 0.9036, 0.9622, 0.9701, 0.9219),
    "MMM2": (0.7839, 0.8542, 0.7786, 0.7773, 0.8789, 0.8542),
}
