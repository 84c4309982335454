"""The cells of the page on methods, as data: every way to distil on the same ground.

In each task one expert, one dataset, one mask, one width, the same epochs and seeds; only the
method differs. The budgets are small, so that all methods can be compared: a tenth of the episodes
that the other pages distil, or fewer, in smaller batches so that there are as many updates.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

from benchmarks.results import combat, ddn, plan
from benchmarks.results.plan import Comparison, DistilledCell, NetworkCell, Study, Task
from kd_offline.distillation.recipe import distill_recipe

WIDTH, BATCH_EPISODES = 32, 64
OF_POLICY = (
    *("kl", "kd-marl", "bc", "bc-argmax", "logits", "igm-bc", "tseng", "relation-attention"),
    "hidden-features",
)
"""Methods that learn from what every expert records."""

OF_LOGITS = ("neighbours",)
"""Methods that need the logits of the expert's policy."""

OF_VALUES = ("q", "ctds", "mixer")
"""Methods that need Q-values, and a mixer."""

NO_CE = "no-ce"
CANDIDATES = ("logits", "kd-marl")
"""Methods of which one is to be the default, KD-MARL with and without its cross-entropy.

Plain KL at temperature 1 is the other candidate: the rival that a user would try first.
"""
_QUICK_EPISODES, _QUICK_EPOCHS, _QUICK_PLAYED = 400, 2, 100


def _tasks() -> tuple[Task, ...]:
    """Return the tasks with what is recorded and distilled of each.

    The board of the page on the Double Distillation Network has no bundled expert: QMIX is trained
    on it, so that methods that need values have their place.
    """
    (spread, *_), (prey, *_) = plan.TASKS, ddn.TASKS
    fights = {task.slug: task for task in combat.TASKS}
    return (
        replace(spread, dataset_episodes=3000, epochs=24, taught=None),
        replace(prey, slug="prey", dataset_episodes=1000, epochs=20),
        replace(fights["3m"], dataset_episodes=3000, epochs=10),
        replace(fights["5m-vs-6m"], dataset_episodes=3000, epochs=10),
        replace(fights["3s5z"], dataset_episodes=1000, epochs=10),
    )


def mask(task: Task) -> str:
    """Return the mask of a task's students."""
    return combat.MASK if task.name.startswith("smax/") else "limited"


def trained_expert(task: Task) -> NetworkCell | None:
    """Return the expert of a task for which none is bundled."""
    return None if task.bundled else NetworkCell(task, "full", None, 0, algorithm="qmix")


def baseline(cell: DistilledCell) -> DistilledCell:
    """Return plain KL from the same data, at the temperature of the method's own KL."""
    own = distill_recipe(method=cell.method)
    tau = own.terms["kl"]["temperature"] if own.weights.get("kl") else 1.0
    plain = replace(cell, method="kl", settings=(), label="")
    if tau == 1.0:
        return plain
    return replace(plain, settings=(("terms.kl.temperature", tau),), label=f"temperature {tau:g}")


def distilled_cells(task: Task) -> list[DistilledCell]:
    """Return the cell of every method, and the baselines that are not among them."""
    widths, expert = (WIDTH,) * len(task.mixed_widths), trained_expert(task)
    methods = OF_POLICY + (OF_LOGITS if task.bundled else OF_VALUES)
    cells = [DistilledCell(task, mask(task), name, widths, expert=expert) for name in methods]
    whole = next(cell for cell in cells if cell.method == "kd-marl")
    cells.append(replace(whole, settings=(("weights.ce", 0.0),), label=NO_CE))
    return list(dict.fromkeys([*cells, *map(baseline, cells)]))


def comparisons(task: Task) -> list[Comparison]:
    """Return every method and its baseline."""
    pairs = [(cell, baseline(cell)) for cell in distilled_cells(task)]
    return [(cell, plain) for cell, plain in pairs if cell.method != "kl"]


def contests(task: Task) -> list[Comparison]:
    """Return each pair of the candidates for the default method."""
    cells = distilled_cells(task)
    candidates = [cell for cell in cells if cell.method in CANDIDATES]
    plain = [cell for cell in cells if cell.method == "kl" and not cell.label]
    return list(combinations([*candidates, *plain], 2))


def all_comparisons(task: Task) -> list[Comparison]:
    """Return all pairs that are compared."""
    return list(dict.fromkeys([*comparisons(task), *contests(task)]))


def network_cells(task: Task) -> list[NetworkCell]:
    """Return the expert that is trained for a task, if any."""
    expert = trained_expert(task)
    return [] if expert is None else [expert]


METHODS = Study(
    work=Path("results/work-methods"),
    cells=Path("docs/results/methods"),
    tasks=_tasks(),
    networks=network_cells,
    distilled=distilled_cells,
    comparisons=all_comparisons,
    episodes=2000,
    settings=(("optimisation.batch_episodes", BATCH_EPISODES),),
)


def quick(study: Study) -> Study:
    """Return a study of minutes that shows that everything runs; its figures mean nothing.

    Two seeds, few episodes and epochs, and no network is trained, so that tasks without a bundled
    expert are left out.
    """
    tasks = [
        replace(task, dataset_episodes=_QUICK_EPISODES, epochs=_QUICK_EPOCHS)
        for task in study.tasks
        if task.bundled
    ]
    # Processes receive the study, so its functions are functions of this module.
    return replace(
        study,
        work=Path("results/quick-work"),
        cells=Path("results/quick-cells"),
        tasks=tuple(tasks),
        distilled=_quick_cells,
        comparisons=_quick_comparisons,
        episodes=_QUICK_PLAYED,
    )


def _quick_cells(task: Task) -> list[DistilledCell]:
    return [replace(cell, seeds=cell.seeds[:2]) for cell in distilled_cells(task)]


def _quick_comparisons(task: Task) -> list[Comparison]:
    return [(cell, baseline(cell)) for cell in _quick_cells(task) if cell.method != "kl"]
