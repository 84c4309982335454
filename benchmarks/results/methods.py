"""The cells of the page on methods, as data: every way to distil on the same ground.

One expert, one dataset, one mask, one width, the same epochs and seeds; only the method differs.
Methods that need Q-values and a mixer learn from a QMIX expert, and are compared with plain KL from
it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.results.plan import (
    RECIPES,
    TASKS,
    Comparison,
    DistilledCell,
    NetworkCell,
    Study,
    Task,
)
from kd_offline.distillation.recipe import distill_recipe

MASK, WIDTH = "limited", 32
OF_POLICY = (
    *("kl", "kd-marl", "bc", "bc-argmax", "logits", "tseng", "relation-attention"),
    *("hidden-features", "neighbours"),
)
"""Methods that learn from the logits of the bundled expert."""

OF_VALUES = ("kl", "q", "mixer")
"""Methods that learn from the Q-values and the mixer of a QMIX expert."""

_VALUES = "of Q-values"
_QUICK_EPISODES, _QUICK_EPOCHS, _QUICK_PLAYED = 400, 2, 100

TASK = replace(TASKS[0], recipes=(("qmix", RECIPES / "train" / "qmix-spread.toml"),), taught=None)


def value_expert(task: Task) -> NetworkCell:
    """Return the expert that has Q-values and a mixer."""
    return NetworkCell(replace(task, frames=None), "full", None, 0, algorithm="qmix")


def baseline(cell: DistilledCell) -> DistilledCell:
    """Return plain KL from the same data, at the temperature of the method's own KL."""
    own = distill_recipe(method=cell.method)
    tau = own.terms["kl"]["temperature"] if own.weights.get("kl") else 1.0
    plain = replace(cell, method="kl", settings=(), label=_VALUES if cell.expert else "")
    if tau == 1.0:
        return plain
    return replace(plain, settings=(("terms.kl.temperature", tau),), label=f"temperature {tau:g}")


def distilled_cells(task: Task) -> list[DistilledCell]:
    """Return the cell of every method, and the baselines that are not among them."""
    widths = (WIDTH,) * len(task.mixed_widths)
    cells = [DistilledCell(task, MASK, method, widths) for method in OF_POLICY]
    expert = value_expert(task)
    cells += [
        DistilledCell(task, MASK, method, widths, label=_VALUES, expert=expert)
        for method in OF_VALUES
    ]
    return list(dict.fromkeys([*cells, *map(baseline, cells)]))


def comparisons(task: Task) -> list[Comparison]:
    """Return every method and its baseline."""
    pairs = [(cell, baseline(cell)) for cell in distilled_cells(task)]
    return [(cell, plain) for cell, plain in pairs if cell != plain and cell.method != "kl"]


METHODS = Study(
    work=Path("results/work-methods"),
    cells=Path("docs/results/methods"),
    tasks=(TASK,),
    networks=lambda task: [value_expert(task)],
    distilled=distilled_cells,
    comparisons=comparisons,
)


def quick(study: Study) -> Study:
    """Return a study of minutes that shows that everything runs; its figures mean nothing.

    Two seeds, few episodes and epochs, and no network is trained, so that cells of others than the
    bundled expert are left out.
    """

    def small(cell: DistilledCell) -> DistilledCell:
        return replace(cell, seeds=cell.seeds[:2])

    tasks = [
        replace(task, dataset_episodes=_QUICK_EPISODES, epochs=_QUICK_EPOCHS)
        for task in study.tasks
    ]
    pairs = study.comparisons or (lambda _: [])
    return replace(
        study,
        work=Path("results/quick-work"),
        cells=Path("results/quick-cells"),
        tasks=tuple(tasks),
        networks=lambda _: [],
        distilled=lambda task: [small(c) for c in study.distilled(task) if c.expert is None],
        ablations=None,
        comparisons=lambda task: [
            (small(one), small(other))
            for one, other in pairs(task)
            if isinstance(one, DistilledCell)
            and isinstance(other, DistilledCell)
            and one.expert is None
        ],
        episodes=_QUICK_PLAYED,
    )
