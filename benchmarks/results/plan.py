"""The cells of the results page, as data.

A *network* cell trains one network by reinforcement learning; a *distilled* cell trains students
from a dataset, five seeds in one run. A *study* is the cells of one page, measured on evaluation
seeds that nothing else uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from kd_offline.distillation.recipe import distill_recipe

# Joint steps that students go on by, and a width of all agents at which the team of the first task
# needs 40 times fewer FLOPs than its expert.
FURTHER, NARROW = 2_000_000, 16
TWO_STEPS, MASKED = "two steps", "masked"
MASKS = ("full", "limited", "paper")
METHODS = ("kd-marl", "kl", "bc")
DISTILLATION_SEEDS = (0, 1, 2, 3, 4)
RL_SEEDS = (0, 1)
RIVAL_SEEDS = (0, 1, 2, 3, 4)
EPISODES = 4000
# Final tables are played on episodes that follow from this seed, and nothing else is. Older cells
# were played on seed 0, which served development, and say so.
EVALUATION_SEED = 20_261_130
DEVELOPMENT_SEED = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One environment: its frames of training, dataset, and student widths.

    ``recipes`` are the files that algorithms are trained by; without any, MAPPO's defaults are
    trained for ``frames``. ``training`` are settings that beat them. ``taught`` is the recipe of
    networks of the students' size that have the expert as their teacher at first. ``environment``
    are settings of the environment. Where no expert is ``bundled``, networks are measured against
    random play alone. ``masked`` tells whether an expert is bundled that learned under the mask.
    """

    name: str
    slug: str
    frames: int | None
    dataset_episodes: int
    epochs: int
    mixed_widths: tuple[int, ...]
    recipes: tuple[tuple[str, Path], ...] = ()
    training: tuple[tuple[str, Any], ...] = ()
    taught: Path | None = None
    environment: tuple[tuple[str, Any], ...] = ()
    bundled: bool = True
    masked: bool = False


RECIPES = Path("cli/recipes")
TASKS = (
    Task(
        "mpe/simple_spread_v3",
        "spread",
        4_000_000,
        30_000,
        24,
        (32, 16, 16),
        taught=RECIPES / "train" / "taught-small.toml",
        masked=True,
    ),
    Task("mpe/simple_speaker_listener_v4", "speaker-listener", 1_000_000, 4_000, 20, (16, 32)),
    Task("mpe/simple_adversary_v3", "adversary", 1_500_000, 6_000, 20, (16, 32, 32)),
)


@dataclass(frozen=True, slots=True)
class NetworkCell:
    """A network trained directly by RL under a mask; ``widths`` None is the full size.

    ``bundled`` is the variant of an expert that comes with the package: nothing is trained.
    ``teacher`` is the expert that it follows at first. ``part`` is the folder of another network
    that the same training leaves. ``settings`` beat those of the task. A cell that is ``apart`` is
    compared without the other seeds of its kind.
    """

    task: Task
    mask: str
    widths: tuple[int, ...] | None
    seed: int
    times: int = 1
    algorithm: str = "mappo"
    bundled: str | None = None
    teacher: str | None = None
    part: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    label: str = ""
    apart: bool = False

    @property
    def frames(self) -> int | None:
        """Joint steps of training; None: as the task's recipe says."""
        return None if self.task.frames is None else self.times * self.task.frames

    @property
    def group(self) -> str:
        """File name of what is measured of all seeds of its kind."""
        size = "full-size" if self.widths is None else "-".join(map(str, self.widths))
        kind = f".x{self.times}" if self.times > 1 else ""
        kind += f".{self.bundled}" if self.bundled else ""
        kind += ".taught" if self.teacher else ""
        kind += f".{self.label}" if self.label else ""
        kind += f".{self.part}" if self.part else ""
        return f"{self.task.slug}.{self.mask}.{self.algorithm}.{size}{kind}"

    @property
    def id(self) -> str:
        """Name of the folder that it is trained in."""
        return f"{replace(self, part=None).group}.seed-{self.seed}"

    @property
    def compared_as(self) -> str:
        """Name of what it is compared as: one network, or all seeds of its kind."""
        return f"{self.group}.seed-{self.seed}" if self.apart else self.group


@dataclass(frozen=True, slots=True)
class DistilledCell:
    """Students of one method under a mask, all seeds.

    ``episodes`` of the dataset, the first ones; None: all of the task's. ``expert`` played what
    they learn from; None: the bundled one. ``further`` are settings of proximal policy distillation
    that the students of the cell without label go on by, joint steps (``frames``) among them.
    """

    task: Task
    mask: str
    method: str
    widths: tuple[int, ...]
    settings: tuple[tuple[str, Any], ...] = ()
    label: str = ""
    seeds: tuple[int, ...] = DISTILLATION_SEEDS
    episodes: int | None = None
    heat: bool = False  # draw how often actions are taken
    expert: NetworkCell | None = None
    further: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        """File name of the cell."""
        size = "-".join(map(str, self.widths))
        tail = f".{self.label.replace(' ', '-')}" if self.label else ""
        return f"{self.task.slug}.{self.mask}.{self.method}.{size}{tail}"

    @property
    def compared_as(self) -> str:
        """Name of what it is compared as: all its seeds."""
        return self.id


AnyCell = NetworkCell | DistilledCell
Comparison = tuple[AnyCell, AnyCell]


def network_cells(task: Task) -> list[NetworkCell]:
    """Return what is trained by RL: full size and mixed widths, and 32-wide under ``limited``.

    In the first task the latter also for ten times as long as its students are distilled, and, for
    as many steps as the expert was trained, with and without the expert as teacher. The expert
    itself is bundled, as is the network of the first of two steps.
    """
    wide = (32,) * len(task.mixed_widths)
    kinds = [(mask, widths, 1) for mask in MASKS for widths in (None, task.mixed_widths)]
    kinds.append(("limited", wide, 1))
    if task == TASKS[0]:
        kinds.append(("limited", wide, 5))
    expert = NetworkCell(task, "full", None, RL_SEEDS[0], bundled="default")
    cells = [
        NetworkCell(task, mask, widths, seed, times)
        for seed in RL_SEEDS
        for mask, widths, times in kinds
    ]
    first = [masked_expert(task)] if task.masked else []
    return [expert, *first, *cells, *rival_cells(task)]


def masked_expert(task: Task, mask: str = "limited") -> NetworkCell:
    """Return the bundled networks of full size that are distilled in two steps."""
    return NetworkCell(task, mask, None, 0, bundled=MASKED)


def rival_cells(task: Task) -> list[NetworkCell]:
    """Return 32-wide networks under ``limited``, with the expert as teacher and without, x2."""
    wide = (32,) * len(task.mixed_widths)
    return [
        NetworkCell(task, "limited", wide, seed, 2, teacher=teacher)
        for teacher in ("bundled", None)
        for seed in RIVAL_SEEDS
        if task.taught
    ]


def distilled_cells(task: Task) -> list[DistilledCell]:
    """Return every method under every mask, 32-wide (LH) and, for KD-MARL, mixed (LH+A).

    In the first task also students that need 40 times fewer FLOPs than the expert, and what an
    environment adds.
    """
    wide = (32,) * len(task.mixed_widths)
    cells = [DistilledCell(task, mask, method, wide) for mask in MASKS for method in METHODS]
    cells += [DistilledCell(task, mask, "kd-marl", task.mixed_widths) for mask in MASKS]
    if task == TASKS[0]:
        narrow = (NARROW,) * len(wide)
        cells += [DistilledCell(task, mask, "kd-marl", narrow) for mask in ("full", "limited")]
    return [*cells, *with_environment(task)]


def with_environment(task: Task) -> list[DistilledCell]:
    """Return KD-MARL LH under ``limited`` that had the environment as well.

    In two steps, networks of full size that learned to play under the mask with the expert as their
    teacher are distilled in its place. Those of the first task also go on by reward and by the
    expert, whose weight stays (proximal policy distillation) or falls to zero (kickstarting).
    """
    whole = whole_cell(task)
    second = replace(whole, label=TWO_STEPS, expert=masked_expert(task))
    if task != TASKS[0]:
        return [second] if task.masked else []
    falling = (("kickstart.form", "plain"), ("kickstart.frames", FURTHER // 4))
    return [
        second,
        replace(whole, label="and proximal", further=(("frames", FURTHER),)),
        replace(whole, label="and kickstarted", further=(("frames", FURTHER), *falling)),
    ]


def whole_cell(task: Task) -> DistilledCell:
    """Return what is compared with its ablations and with rivals: KD-MARL LH under ``limited``."""
    return DistilledCell(task, "limited", "kd-marl", (32,) * len(task.mixed_widths))


def ablation_cells(task: Task) -> list[DistilledCell]:
    """Return KD-MARL without each of its parts, under the limited mask of the first task.

    Plain KL at KD-MARL's temperature is what is left without any part. In the other two tasks every
    method keeps all that there is, so no part can bring anything.
    """
    whole = whole_cell(task)
    if task != TASKS[0]:
        return []
    parts = [
        replace(whole, settings=((f"weights.{part}", 0.0),), label=f"no-{part}")
        for part in ("role", "ce", "structure", "policy")
    ]
    tau = distill_recipe(method=whole.method).terms["kl"]["temperature"]
    alike = replace(
        whole, method="kl", settings=(("terms.kl.temperature", tau),), label="same-temperature"
    )
    return [alike, *parts]


def comparisons(task: Task) -> list[Comparison]:
    """Return whose difference is stated: whole and ablated, and rivals and students."""
    whole, rivals = whole_cell(task), {cell.group: cell for cell in rival_cells(task)}
    alike: list[Comparison] = [(whole, cell) for cell in ablation_cells(task)]
    if task != TASKS[0]:  # one is of sides that play against each other
        return alike
    first, more = list(rivals.values()), with_environment(task)
    alike += [(cell, whole) for cell in first] + [(cell, whole) for cell in more]
    alike += [(cell, rival) for cell in more for rival in first[:1]]
    return [*alike, *pairwise(first), *pairwise(more)]


@dataclass(frozen=True, slots=True)
class Study:
    """The cells of one page, where they are kept, and how they are measured.

    What they keep is measured against the bundled experts. ``comparisons`` are pairs of cells that
    are played in the same episodes.
    """

    work: Path
    cells: Path
    tasks: tuple[Task, ...]
    networks: Callable[[Task], list[NetworkCell]]
    distilled: Callable[[Task], list[DistilledCell]]
    ablations: Callable[[Task], list[DistilledCell]] | None = None
    comparisons: Callable[[Task], list[Comparison]] | None = None
    episodes: int = EPISODES
    settings: tuple[tuple[str, Any], ...] = ()  # of every distillation
    latency_rounds: int = 0  # 0: decisions are not timed

    def groups(self, task: Task) -> list[tuple[NetworkCell, ...]]:
        """Return the network cells of each kind, all its seeds."""
        found: dict[str, list[NetworkCell]] = {}
        for cell in self.networks(task):
            found.setdefault(cell.group, []).append(cell)
        return [tuple(cells) for cells in found.values()]


PARTICLE = Study(
    work=Path("results/work"),
    cells=Path("docs/results/cells"),
    tasks=TASKS,
    networks=network_cells,
    distilled=distilled_cells,
    ablations=ablation_cells,
    comparisons=comparisons,
)
