"""Made-up run folders with plausible numbers, for tests of reports and of run records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.commands import command_text
from kd_offline.evaluation.cost import NetworkShape, compare, team_cost
from kd_offline.evaluation.evaluate import INTERVALS
from kd_offline.runs.folder import RunFolder, create_run
from kd_offline.schemas.evaluation import (
    ActionHeat,
    Agreement,
    Cost,
    CrossPlay,
    Estimate,
    EvaluationReport,
    ModeScore,
    RetentionIntervals,
    RetentionScores,
    SeedScore,
    SideScore,
)
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import (
    DatasetReference,
    JudgedBy,
    Machine,
    Provenance,
    RunManifest,
    SeedResult,
    StudentRecord,
    Timing,
)
from kd_offline.seeding import generator

AGENTS = ("agent_0", "agent_1", "agent_2")
ACTIONS = ("no_action", "move_left", "move_right", "move_down", "move_up")
_ID = "sha256:" + "3f9a" * 16


def run_manifest(
    *, seeds: Sequence[int] = (0, 1, 2, 3, 4), agents: Sequence[str] = AGENTS
) -> RunManifest:
    """Return the ``run.json`` of a made-up finished run."""
    return RunManifest(
        status="complete",
        method="kd-marl",
        mask="limited",
        recipe=DistillRecipe(mask="limited", seeds=tuple(seeds)).model_dump(mode="json"),
        dataset=DatasetReference(id=_ID, name="spread-gru64", path="dataset.zarr"),
        environment="mpe/simple_spread_v3",
        expert="sha256:" + "b71c" * 16,
        expert_reference="bundled",
        judged_by=JudgedBy(part="heldout", episodes=200),
        seeds=tuple(seeds),
        students=tuple(StudentRecord(agent=a, hidden=32, parameters=9000) for a in agents),
        results=tuple(
            SeedResult(
                seed=seed,
                digest=_students(seed),
                updates=18_000,
                best_epoch=38,
                held_out={"kl": 0.041 + 0.001 * seed, "agreement": 0.912 - 0.002 * seed},
                seconds=212.0 + seed,
            )
            for seed in seeds
        ),
        provenance=Provenance(
            kd_offline="0.1.0",
            python="3.11.7",
            packages={"numpy": "2.4.6", "torch": "2.13.0+cpu", "zarr": "3.1.6"},
            git_revision="0123456789abcdef0123456789abcdef01234567",
            git_modified=False,
            cpu_capability="AVX512",
            threads=2,
            machine=Machine(
                system="Linux",
                architecture="x86_64",
                processor="AMD EPYC",
                cores=2,
                memory_bytes=24 * 2**30,
            ),
        ),
        timing=Timing(started="2026-01-02T03:04:05Z", seconds=1064.0),
        command=command_text(
            *("distill", "dataset.zarr"), output="run", mask="limited", seeds="0,1,2,3,4"
        ),
    )


def metric_rows(
    seeds: Sequence[int] = (0, 1, 2, 3, 4), *, epochs: int = 40
) -> list[dict[str, Any]]:
    """Return learning curves of four loss terms, each with a training and a held-out row."""
    finals = {"loss": 0.2, "kl": 0.04, "cross_entropy": 0.22, "structure": 0.012, "role": 0.03}
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        rng = generator(seed, "fabricated curves")
        for epoch in range(1, epochs + 1):
            for split, gap in (("train", 1.0), ("heldout", 1.06)):
                decay = 6 * math.exp(-epoch / 4) + math.exp(-epoch / 20)
                noise = rng.normal(1.0, 0.03, len(finals))
                values = {
                    name: float(final * (gap + decay) * noise[i])
                    for i, (name, final) in enumerate(finals.items())
                }
                agreement = {"agreement": float(0.92 - 0.6 * math.exp(-epoch / 6))}
                where = {"seed": seed, "epoch": epoch, "split": split}
                rows.append(where | values | agreement | {"seconds": 5.3 * epoch})
    return rows


def evaluation_report(
    *, sides: bool = False, ceiling: bool = True, seeds: Sequence[int] = (0, 1, 2, 3, 4)
) -> EvaluationReport:
    """Return an ``evaluation.json`` like one of spread, or of a task with two sides."""
    groups: dict[str, tuple[str, ...]]
    groups = {"adversary": AGENTS[:1], "good": AGENTS[1:]} if sides else {"team": AGENTS}
    return EvaluationReport(
        run="run",
        environment="mpe/simple_spread_v3",
        method="kd-marl",
        mask="limited",
        dataset=_ID,
        expert="bundled (sha256:b71cb71cb71c)",
        opponents=dict.fromkeys(groups, "bundled") if sides else {},
        ceiling_policy="experts/limited (sha256:77aa77aa77aa)" if ceiling else None,
        episodes=4000,
        evaluation_seed=0,
        distillation_seeds=tuple(seeds),
        students={str(seed): _students(seed) for seed in seeds},
        greedy=_mode(-28.4, -34.6, -33.1 if ceiling else None, groups, seeds, compared=True),
        sampled=_mode(-29.4, -38.9, -35.0 if ceiling else None, groups, seeds, compared=False),
        cost=_cost(),
        agreement=0.884,
        joint_agreement=0.703,
        action_frequency=_heats(),
        cross_play=CrossPlay(
            agents=AGENTS,
            student_among_experts=tuple(_estimate(x, 0.006) for x in (0.941, 0.987, 0.962)),
            expert_among_students=tuple(_estimate(x, 0.008) for x in (0.921, 0.894, 0.907)),
        ),
        intervals=INTERVALS,
        command=command_text("evaluate", "run", episodes=4000, seed=0, cross_play=True),
        seconds=41.2,
    )


def fabricate_run(path: Path, *, sides: bool = False, ceiling: bool = True) -> RunFolder:
    """Create a complete, evaluated run folder without weights."""
    run = create_run(path, run_manifest())
    run.append_metrics(metric_rows())
    run.write_evaluation(evaluation_report(sides=sides, ceiling=ceiling))
    return run


def _students(seed: int) -> str:
    """Return the digest of a team's weights."""
    return "sha256:" + f"{seed:02x}" * 32


def _estimate(mean: float, half: float) -> Estimate:
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def _kept(student: float, expert: float, random: float, top: float | None) -> dict[str, Any]:
    normalised = (student - random) / (expert - random)
    of_ceiling = None if top is None else (student - random) / (top - random)
    return {
        "retention": RetentionScores(normalised=normalised, of_ceiling=of_ceiling),
        "retention_intervals": RetentionIntervals(
            normalised=_estimate(normalised, 0.009),
            of_ceiling=None if of_ceiling is None else _estimate(of_ceiling, 0.011),
        ),
    }


def _figures(share: float, expert: float, student: float, ceiling: float | None) -> dict[str, Any]:
    random = -79.4
    return {
        "expert": _estimate(share * expert, 0.2),
        "student": _estimate(share * student, 0.5),
        "random": _estimate(share * random, 0.4),
        "ceiling": None if ceiling is None else _estimate(share * ceiling, 0.2),
        **_kept(student, expert, random, ceiling),
    }


def _mode(
    expert: float,
    student: float,
    ceiling: float | None,
    groups: dict[str, tuple[str, ...]],
    seeds: Sequence[int],
    *,
    compared: bool,
) -> ModeScore:
    offsets = np.linspace(-0.6, 0.6, len(seeds))
    shared = Agreement(
        action=0.884,
        joint=0.703,
        agents=dict(zip(AGENTS, (0.842, 0.921, 0.889), strict=True)),
        kl=dict(zip(AGENTS, (0.071, 0.022, 0.039), strict=True)),
    )
    return ModeScore(
        **_figures(1.0, expert, student, ceiling),
        sides={
            name: SideScore(
                agents=agents, **_figures(len(agents) / len(AGENTS), expert, student, ceiling)
            )
            for name, agents in groups.items()
        },
        seeds=tuple(
            SeedScore(seed=s, mean=student + d, normalised=(student + d + 79.4) / (expert + 79.4))
            for s, d in zip(seeds, offsets, strict=True)
        ),
        length={"expert": 25.0, "student": 25.0, "random": 25.0},
        agreement=shared if compared else None,
    )


def _cost() -> Cost:
    large = [NetworkShape(21, (64, 64), 64, 5)] * 3
    small = [NetworkShape(width, (32, 32), 32, 5) for width in (10, 10, 12)]
    acted = [25.0] * 3
    return compare(
        team_cost(AGENTS, large, acted, 25.0, 25), team_cost(AGENTS, small, acted, 25.0, 25)
    )


def _heats() -> tuple[ActionHeat, ...]:
    heats = []
    for i, agent in enumerate(AGENTS):
        time = np.arange(25)[:, None]
        rng = generator(i, "fabricated heat")
        still = 3.0 / (1 + np.exp(-(time - 11 - i) / 2.5))
        base = rng.normal(0, 0.25, (1, 5)) + np.where(np.arange(5) == 0, still - 0.5, 0.9)
        maps = [_softmax(base + rng.normal(0, spread, (25, 5))) for spread in (0.02, 0.12)]
        rows = [tuple(tuple(row) for row in np.round(m, 4).tolist()) for m in maps]
        heats.append(ActionHeat(agent=agent, actions=ACTIONS, expert=rows[0], student=rows[1]))
    return tuple(heats)


def _softmax(logits: Any) -> Any:
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)
