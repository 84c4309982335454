"""The cells of the page on the Double Distillation Network, as data, and the paper's tables.

The board is smaller than the paper's, so that one training takes about a minute of a core: 6 x 6
cells, four predators and four prey, windows of 3 x 3 cells, 60 steps. The best team return is 20.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.results.plan import Comparison, DistilledCell, NetworkCell, Study, Task

LOCAL = "local"
FULL_VIEW, HYPERNETWORK = "full-view", "hypernetwork"
ALGORITHMS = ("vdn", "qmix", "qatten", "qplex", "wqmix", "qtran")
PENALTIES = {"prey-half": 0.5, "prey-two": 2.0, "prey-none": 0.0}
WITH_DDN = "prey-half"
MIXERS = ("vdn", "wqmix")  # of DDN, beside its default QMIX
SEEDS = (0, 1, 2)
EPOCHS, BATCH_EPISODES = 40, 32
WIDTH, NARROW = 64, 16
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
        epochs=EPOCHS,
        mixed_widths=(WIDTH,) * 4,
        training=TRAINING,
        environment=(*BOARD, ("lone_penalty", penalty)),
        bundled=False,
    )
    for slug, penalty in PENALTIES.items()
)


def network_cells(task: Task) -> list[NetworkCell]:
    """Return every algorithm of value decomposition and both networks of DDN, three seeds each.

    DDN learns with one penalty alone. QMIX with full sight and with PTDE's hypernetwork are the
    teachers of DDN's relatives.
    """
    cells = [cell for seed in SEEDS for cell in _networks(task, seed)]
    return [*cells, *(part for cell in cells if cell.algorithm == "ddn" for part in [local(cell)])]


def _networks(task: Task, seed: int) -> list[NetworkCell]:
    plain = [NetworkCell(task, "full", None, seed, algorithm=name) for name in ALGORITHMS]
    if task.slug != WITH_DDN:
        return plain
    first = guiding(task, seed)
    others = [replace(first, settings=(("mixer", name),), label=name) for name in MIXERS]
    return [*plain, first, *others, *([*teachers(task).values()] if seed == SEEDS[0] else [])]


def guiding(task: Task, seed: int) -> NetworkCell:
    """Return the guiding network of DDN, with QMIX's mixer."""
    return NetworkCell(task, "full", None, seed, algorithm="ddn")


def local(cell: NetworkCell) -> NetworkCell:
    """Return the local network that the same training leaves."""
    return replace(cell, part=LOCAL)


def teachers(task: Task) -> dict[str, NetworkCell]:
    """Return the teachers of CTDS and IGM-DA, and of PTDE, by what they see."""
    views = {
        FULL_VIEW: (("architecture.view", "full"),),
        HYPERNETWORK: (
            ("architecture.view", "personalised"),
            ("architecture.block", "hypernetwork"),
        ),
    }
    plain = NetworkCell(task, "full", None, SEEDS[0], algorithm="qmix")
    return {name: replace(plain, settings=view, label=name) for name, view in views.items()}


def distilled_cells(task: Task) -> list[DistilledCell]:
    """Return students of the guiding networks from files, of DDN's kind and plain ones.

    Students of the kind and size of the local network, and narrow ones, learn from every guiding
    network; ablations and students of other methods from one.
    """
    if task.slug != WITH_DDN:
        return []
    alike = [of_guiding(task, seed) for seed in SEEDS]
    first = alike[0]
    plain = replace(first, method="kl")
    of_teachers = [
        replace(plain, method=method, expert=teachers(task)[name], label=name)
        for name, methods in ((FULL_VIEW, ("ctds", "igm-bc", "kl")), (HYPERNETWORK, ("ptde", "kl")))
        for method in methods
    ]
    ablations = [_without(first, *losses) for losses in (*((loss,) for loss in INNER), INNER)]
    narrow = [_narrow(cell) for cell in (*alike, plain)]
    return [*alike, *narrow, plain, *of_teachers, *ablations]


INNER = ("privileged_embedding", "feature")
"""The losses L_B and L_F, on inner layers."""


def of_guiding(task: Task, seed: int) -> DistilledCell:
    """Return students as the local network, by all three losses, of the guiding one of a seed."""
    settings, expert = (("student.last_action", True),), guiding(task, seed)
    cell = DistilledCell(task, "full", "ddn-external", task.mixed_widths, settings)
    return replace(cell, expert=expert, seeds=SEEDS, label=f"guiding-{seed}")


def _narrow(cell: DistilledCell) -> DistilledCell:
    return replace(cell, widths=(NARROW,) * len(cell.widths))


def _without(cell: DistilledCell, *losses: str) -> DistilledCell:
    zeros = tuple((f"weights.{loss}", 0.0) for loss in losses)
    label = f"{cell.label}.without-{'-'.join(losses)}"
    return replace(cell, settings=(*cell.settings, *zeros), label=label)


def comparisons(task: Task) -> list[Comparison]:
    """Return students from files and the local network that the same guiding network taught."""
    if task.slug != WITH_DDN:
        return []
    taught = [(seed, replace(local(guiding(task, seed)), apart=True)) for seed in SEEDS]
    return [(of_guiding(task, seed), online) for seed, online in taught]


DDN = Study(
    work=Path("results/work-ddn"),
    cells=Path("docs/results/ddn"),
    tasks=TASKS,
    networks=network_cells,
    distilled=distilled_cells,
    comparisons=comparisons,
    episodes=1000,
    settings=(("optimisation.batch_episodes", BATCH_EPISODES),),
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
