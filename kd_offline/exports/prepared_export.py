"""Prepare a team for export, with its expected outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_offline.datasets import ExpertBuffer
from kd_offline.errors import MismatchError
from kd_offline.exports import parity_check
from kd_offline.exports.compact import compact
from kd_offline.exports.contract import contracts
from kd_offline.exports.engines import numpy_steps, team
from kd_offline.exports.network import AgentNetwork, to_int8
from kd_offline.exports.team import ExportedTeam
from kd_offline.runs.complete import CompleteRun
from kd_offline.runs.source import open_dataset
from kd_offline.schemas.export import RESET, AgentContract, Comparison, Precision
from kd_offline.students.policy import StudentPolicy, digest
from kd_offline.types import Float32Array


@dataclass(frozen=True, slots=True)
class PreparedExport:
    """A team in the form in which it is written, and recorded episodes with its answers."""

    student: StudentPolicy
    students: str  # digest of the trained weights
    precision: Precision
    networks: tuple[AgentNetwork, ...]
    agents: tuple[AgentContract, ...]
    episodes: parity_check.Recorded
    expected: Float32Array  # logits [E, T, N, A] that every format has to give
    cost: Comparison  # of the precision

    @property
    def reference(self) -> ExportedTeam:
        """The team in NumPy, from memory."""
        return team(self.agents, numpy_steps(self.networks), self.student.card.random_k)

    @property
    def facts(self) -> dict[str, str]:
        """The description that is written into every file."""
        card = self.student.card
        return {
            "kind": "kd-offline export",
            "environment": card.environment.id,
            "mask": card.mask,
            "precision": self.precision,
            "seed": str(self.student.seed),
            "students": self.students,
            "dataset": card.dataset,
            "reset": RESET,
        }

    def facts_of(self, agent: AgentContract) -> dict[str, str]:
        """Return the description in one agent's file, with the indices of its visible features."""
        seen = {"seen": agent.seen, "blocks": agent.blocks, "drawn": agent.drawn}
        return self.facts | {
            "agent": agent.agent,
            "mask_contract": json.dumps(seen),
            "contract": agent.model_dump_json(),
        }


def prepare_export(
    run: CompleteRun,
    precision: Precision,
    *,
    seed: int | None = None,
    dataset: str | Path | ExpertBuffer | None = None,
    episodes: int = 400,
    least_agreement: float = 1.0,
) -> PreparedExport:
    """Compact the students of one seed, and check that this changes none of their outputs.

    Raises
    ------
    UsageError, UnknownNameError, MismatchError
        The run has no such seed, or its dataset is not there or differs from what it states.
    ParityError
        The compacted students, or their precision, do not repeat the trained ones.
    """
    manifest, student = run.manifest, run.team(seed)
    buffer = open_dataset(manifest, run.path, dataset)
    _check_mask(student, buffer)
    recorded = parity_check.recorded(
        buffer, episodes, None if manifest.judged_by is None else manifest.judged_by.part
    )
    trained = parity_check.replay(student, recorded)
    whole = compact(student)
    agents = contracts(whole, student.card.environment)
    logits = parity_check.replay(team(agents, numpy_steps(whole), student.card.random_k), recorded)
    cost = parity_check.compare(logits, trained, recorded)
    parity_check.require_parity("compacted", cost)
    expected, networks = trained, whole
    if precision == "int8":
        networks = tuple(to_int8(network) for network in whole)
        agents = contracts(networks, student.card.environment)
        int8 = team(agents, numpy_steps(networks), student.card.random_k)
        expected = parity_check.replay(int8, recorded)
        cost = parity_check.compare(expected, trained, recorded)
        parity_check.require_agreement(cost, least_agreement, precision)
    weights = digest(student.team)
    return PreparedExport(student, weights, precision, networks, agents, recorded, expected, cost)


def _check_mask(student: StudentPolicy, buffer: ExpertBuffer) -> None:
    """Refuse students that see something else than their dataset's mask shows."""
    stored, static = buffer.mask(student.card.mask), student.mask.static
    same = stored.ndim > 2 if static is None else np.array_equal(stored, static)
    if student.card.environment != buffer.spec.local or not same:
        msg = (
            f"the students' card and the dataset at {buffer.where!r} differ about the environment "
            f"or the mask {student.card.mask!r}: the run was altered, so restore it or distil again"
        )
        raise MismatchError(msg)
