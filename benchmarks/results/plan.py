"""The cells of the results page, as data.

A *network* cell trains one network by reinforcement learning; a *distilled* cell trains students
from a dataset, five seeds in one run. Every cell is measured on the same evaluation seeds. A
*study* is the cells of one page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MASKS = ("full", "limited", "paper")
METHODS = ("kd-marl", "kl", "bc")
DISTILLATION_SEEDS = (0, 1, 2, 3, 4)
ABLATION_SEEDS = (0, 1, 2)
RL_SEEDS = (0, 1)
EPISODES = 4000


@dataclass(frozen=True, slots=True)
class Task:
    """One environment: its frames of training, dataset, and student widths.

    ``recipes`` are the files that algorithms are trained by; without any, MAPPO's defaults are
    trained for ``frames``. ``training`` are settings that beat them.
    """

    name: str
    slug: str
    frames: int | None
    dataset_episodes: int
    epochs: int
    mixed_widths: tuple[int, ...]
    recipes: tuple[tuple[str, Path], ...] = ()
    training: tuple[tuple[str, Any], ...] = ()


TASKS = (
    Task("mpe/simple_spread_v3", "spread", 4_000_000, 30_000, 24, (32, 16, 16)),
    Task("mpe/simple_speaker_listener_v4", "speaker-listener", 1_000_000, 4_000, 20, (16, 32)),
    Task("mpe/simple_adversary_v3", "adversary", 1_500_000, 6_000, 20, (16, 32, 32)),
)


@dataclass(frozen=True, slots=True)
class NetworkCell:
    """A network trained directly by RL under a mask; ``widths`` None is the full size.

    ``bundled`` is the variant of an expert that comes with the package: nothing is trained.
    """

    task: Task
    mask: str
    widths: tuple[int, ...] | None
    seed: int
    times: int = 1
    algorithm: str = "mappo"
    bundled: str | None = None

    @property
    def frames(self) -> int | None:
        """Joint steps of training; None: as the task's recipe says."""
        return None if self.task.frames is None else self.times * self.task.frames

    @property
    def id(self) -> str:
        """File name of the cell."""
        size = "full-size" if self.widths is None else "-".join(map(str, self.widths))
        kind = f".x{self.times}" if self.times > 1 else ""
        kind += f".{self.bundled}" if self.bundled not in (None, "default") else ""
        return f"{self.task.slug}.{self.mask}.{self.algorithm}.{size}{kind}.seed-{self.seed}"


@dataclass(frozen=True, slots=True)
class DistilledCell:
    """Students of one method under a mask, all seeds.

    ``episodes`` of the dataset, the first ones; None: all of the task's. ``expert`` played what
    they learn from; None: the bundled one.
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

    @property
    def id(self) -> str:
        """File name of the cell."""
        size = "-".join(map(str, self.widths))
        tail = f".{self.label.replace(' ', '-')}" if self.label else ""
        return f"{self.task.slug}.{self.mask}.{self.method}.{size}{tail}"


def network_cells(task: Task) -> list[NetworkCell]:
    """Return what is trained by RL: full size and mixed widths, and 32-wide under ``limited``.

    In the first task the latter also for ten times as long as its students are distilled.
    """
    wide = (32,) * len(task.mixed_widths)
    kinds = [(mask, widths, 1) for mask in MASKS for widths in (None, task.mixed_widths)]
    kinds.append(("limited", wide, 1))
    if task == TASKS[0]:
        kinds.append(("limited", wide, 5))
    return [
        NetworkCell(task, mask, widths, seed, times)
        for seed in RL_SEEDS
        for mask, widths, times in kinds
    ]


def distilled_cells(task: Task) -> list[DistilledCell]:
    """Return every method under every mask, 32-wide (LH) and, for KD-MARL, mixed (LH+A)."""
    wide = (32,) * len(task.mixed_widths)
    cells = [DistilledCell(task, mask, method, wide) for mask in MASKS for method in METHODS]
    cells += [DistilledCell(task, mask, "kd-marl", task.mixed_widths) for mask in MASKS]
    return cells


def ablation_cells(task: Task) -> list[DistilledCell]:
    """Return KD-MARL without each of its parts, under the limited mask of the first task.

    In the other two tasks every method keeps all that there is, so no part can bring anything.
    """
    wide = (32,) * len(task.mixed_widths)
    parts = ("ce", "structure", "role", "policy") if task == TASKS[0] else ()
    return [
        DistilledCell(
            task,
            "limited",
            "kd-marl",
            wide,
            ((f"weights.{part}", 0.0),),
            f"no-{part}",
            ABLATION_SEEDS,
        )
        for part in parts
    ]


@dataclass(frozen=True, slots=True)
class Study:
    """The cells of one page, where they are kept, and how they are measured.

    What they keep is measured against the bundled experts.
    """

    work: Path
    cells: Path
    tasks: tuple[Task, ...]
    networks: Callable[[Task], list[NetworkCell]]
    distilled: Callable[[Task], list[DistilledCell]]
    ablations: Callable[[Task], list[DistilledCell]] | None = None
    rl_seeds: tuple[int, ...] = RL_SEEDS
    episodes: int = EPISODES
    latency_rounds: int = 0  # 0: decisions are not timed

    def groups(self, task: Task) -> list[NetworkCell]:
        """Return one network cell for all seeds of its kind."""
        return [cell for cell in self.networks(task) if cell.seed == self.rl_seeds[0]]


PARTICLE = Study(
    work=Path("results/work"),
    cells=Path("docs/results/cells"),
    tasks=TASKS,
    networks=network_cells,
    distilled=distilled_cells,
    ablations=ablation_cells,
)
