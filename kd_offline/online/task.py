"""A task in which students are played: its environment and the expert that they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd_offline import environments
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.evaluation.evaluate import Measurements, Plan, measure
from kd_offline.evaluation.evaluation_setup import recorded_expert
from kd_offline.evaluation.intervals import difference_interval
from kd_offline.evaluation.play import PolicySet
from kd_offline.experts.protocol import Expert
from kd_offline.runs.complete import CompleteRun
from kd_offline.runs.folder import digests
from kd_offline.schemas.evaluation import Estimate
from kd_offline.schemas.online import Students
from kd_offline.schemas.run import RunManifest
from kd_offline.tracking.base import Observer


@dataclass(frozen=True, slots=True)
class Allowed:
    """Environments and experts that the user allows explicitly, see ``code_guard``."""

    environment: str | None = None
    expert: str | Path | None = None
    expert_recipe: str | Path | None = None
    opponents: Sequence[str] = ()


NOTHING = Allowed()


@dataclass(slots=True)
class Task:
    """The environment and the expert that a run was distilled for, and the plan of evaluations.

    Students are compared with those that were played first.
    """

    environment: BatchedEnvironment
    expert: Expert
    plan: Plan
    _first: npt.NDArray[np.float64] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, manifest: RunManifest, asked_by: str, allowed: Allowed, plan: Plan) -> Task:
        """Return the task of a run.

        Raises
        ------
        UsageError, CheckpointError, MismatchError, UnknownNameError
            Environment or expert cannot be used, or the run may not choose them by itself.
        """
        environment = environments.load_recorded(
            manifest.environment,
            manifest.environment_kwargs,
            asked_by=asked_by,
            allowed=allowed.environment,
            parts=manifest.parts,
        )
        expert = recorded_expert(
            *(manifest, allowed.expert, allowed.expert_recipe, environment.spec),
            allowed.opponents,
        )
        return cls(environment, expert, plan)

    def students(self, run: CompleteRun, name: str, observer: Observer) -> Students:
        """Play the students of a run and return their scores; ``name`` is the run's."""
        policies, seeds = PolicySet(self.expert, run.teams), run.manifest.seeds
        measured = measure(self.environment, policies, seeds, self.plan, observer)
        returns, change = _greedy_returns(measured), None
        if self._first is None:
            self._first = returns
        else:
            change = Estimate(**difference_interval(returns, self._first)._asdict())
        return Students(
            run=name,
            digests=digests(run.manifest),
            greedy=measured.modes["greedy"],
            sampled=measured.modes["sampled"],
            change=change,
        )


def _greedy_returns(measured: Measurements) -> npt.NDArray[np.float64]:
    """Return what each seed's students earned in each episode, all sides, [K, E]."""
    sides = measured.sides.values()
    by_side = np.stack([side.returns(*side.students) for side in sides])
    return np.asarray(by_side.sum(axis=0))
