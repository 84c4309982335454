"""What a row of a results page had: training seeds, experience, time, a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.results import curves
from benchmarks.results.plan import DEVELOPMENT_SEED, AnyCell, DistilledCell, NetworkCell
from benchmarks.results.run import recipe_of

Made = dict[str, Any]
NOT_KEPT, NOT_MADE, TOO_SHORT = "not kept", "*not measured*", "too short"
COLUMNS = ("K", "learned from", "seconds", "teacher", "slope at the end", "played on")
WORDS = (
    "*K* is the number of training seeds. *Seconds* are those of one training or distillation, the "
    "median over seeds, on one thread beside other work; recording is not in them. A network "
    "trained by reinforcement learning played the *steps* that it learned from itself, and its "
    "*teacher* is whom it followed at first. Students learn from recorded episodes; the steps in "
    "brackets are those that the recorded expert, and its teacher, had been trained for. *Slope at "
    "the end* is by how much sampled play got better per million steps over the last quarter of "
    "the training, while its learning rate fell to zero. *Played on* is the evaluation seed."
)


def columns(cell: AnyCell, made: Made, expert_steps: int | None, unit: str) -> tuple[str, ...]:
    """Return the columns of a row that say what it had, in the order of ``COLUMNS``."""
    if isinstance(cell, DistilledCell):
        steps = "" if expert_steps is None else f" ({expert_steps:,} steps)"
        episodes = cell.episodes or cell.task.dataset_episodes
        learned, led = f"{episodes:,} episodes{steps}", "-"
        if cell.further:
            further = dict(cell.further)
            learned += f", then {further['frames']:,} steps"
            led = f"`bundled`, {further.get('kickstart.frames', further['frames']):,} steps"
        had = (learned, seconds(made), led, "-")
    else:
        had = (f"{made['frames']:,} steps", seconds(made), teacher(cell, made), slope(made, unit))
    return (str(made["seeds"]), *had, str(evaluation_seed(made)))


def planned(cell: AnyCell) -> tuple[str, ...]:
    """Return the first columns of a row that was not made yet."""
    if isinstance(cell, DistilledCell) or cell.frames is None:
        return ()
    return "0", f"{cell.frames:,} steps", NOT_MADE, teacher(cell, {})


def evaluation_seed(made: Made) -> int:
    """Return the seed that the evaluation episodes of a cell follow from."""
    return int(made.get("evaluation_seed", DEVELOPMENT_SEED))


def seconds(made: Made) -> str:
    """Return the median time of one training or distillation."""
    took: Sequence[float] = made.get("seconds") or []
    return f"{median(took):,.0f}" if took else NOT_KEPT


def teacher(cell: NetworkCell, made: Made) -> str:
    """Return whom a network followed at first, and for how long."""
    if "teacher" in made:
        stated = made["teacher"]
    else:
        stated = recipe_of(cell).model_dump(mode="json").get("kickstart")
    return f"`{stated['teacher']}`, {stated['frames']:,} steps" if stated else "none"


def slope(made: Made, unit: str) -> str:
    """Return the slope of the curves at the end; ``unit`` ``%`` says that it is of won battles."""
    kept = made.get("curves") or [[]]
    found = curves.slopes(kept) if all(kept) else None
    if found is None:
        return TOO_SHORT if all(kept) else NOT_KEPT
    mean, low, high = (100 * x if unit == "%" else x for x in found)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def single_seeds(made: Made, mode: str) -> list[tuple[int, float, float | None]]:
    """Return each training seed with its mean return and, where it was kept, its win rate."""
    rows = (made.get(mode) or {}).get("seeds", [])
    return [(row["seed"], row["mean"], row.get("won")) for row in rows]
