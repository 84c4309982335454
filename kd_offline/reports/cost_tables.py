"""Tables of what decisions cost: counted, predicted for devices, and timed."""

from __future__ import annotations

from kd_offline.reports.formatting import number, whole
from kd_offline.reports.tables import Table, table
from kd_offline.schemas.evaluation import AgentMemory, EvaluationReport, TeamCost
from kd_offline.schemas.hardware import Energy, Prediction
from kd_offline.schemas.latency import LatencyReport

DASH = "\N{EN DASH}"


def cost_table(report: EvaluationReport) -> Table:
    """Return the team's costs, expert and students."""
    expert, student = report.cost.expert, report.cost.student
    n = len(student.agents)

    def row(name: str, a: float, b: float) -> tuple[str, ...]:
        return (name, whole(a), whole(b), f"{a / max(b, 1):.1f}\N{MULTIPLICATION SIGN}")

    return table(
        "Cost of the team",
        "quantity|expert|students|reduction",
        [
            row("parameters, a network for each agent", expert.parameters, student.parameters),
            *(
                [row("parameters, shared networks counted once", once, student.parameters)]
                if (once := expert.parameters_once) is not None
                else []
            ),
            row("FLOPs a decision, mean of the agents", expert.flops / n, student.flops / n),
            row("multiply-accumulates a team step", expert.macs, student.macs),
            row("FLOPs a team step", expert.flops, student.flops),
            row("elementwise operations a team step", expert.elementwise, student.elementwise),
            row(
                f"FLOPs an episode ({number(expert.episode.mean_length, 1)} and "
                f"{number(student.episode.mean_length, 1)} steps on average)",
                expert.episode.flops,
                student.episode.flops,
            ),
            row(
                f"FLOPs an episode at the limit of {student.episode.limit} steps",
                expert.episode.flops_at_limit,
                student.episode.flops_at_limit,
            ),
            row("bytes of parameters, float32", _stored(expert), _stored(student)),
            *_with_critic(report),
        ],
    )


def _stored(team: TeamCost) -> int:
    """Return the bytes of a team's parameters: of students, of what export keeps."""
    return sum(
        4 * agent.parameters if agent.memory is None else agent.memory.parameters_fp32
        for agent in team.agents
    )


def _with_critic(report: EvaluationReport) -> list[tuple[str, ...]]:
    """Return what the expert costs together with what says its values."""
    found = report.cost.expert_with_critic
    if found is None:
        return []
    steps = number(found.episode.mean_length, 1)
    what = "with the expert's critic or mixer"
    return [
        (f"parameters, {what}", whole(found.parameters), DASH, DASH),
        (f"FLOPs a decision, {what}", whole(found.flops_per_decision), DASH, DASH),
        (f"FLOPs a team step, {what}", whole(found.flops), DASH, DASH),
        (f"FLOPs an episode of {steps} steps, {what}", whole(found.episode.flops), DASH, DASH),
    ]


def network_table(report: EvaluationReport) -> Table:
    """Return each agent's network before and after."""

    def shape(team: TeamCost, i: int) -> str:
        one = team.agents[i]
        gru = [] if one.gru is None else [f"GRU {one.gru}"]
        arrow = " \N{RIGHTWARDS ARROW} "
        layers = [*map(str, one.trunk), *gru, *one.layers]
        return arrow.join([str(one.inputs), *layers, str(one.actions)])

    expert, student = report.cost.expert, report.cost.student
    rows = [
        (
            one.agent,
            shape(expert, i),
            shape(student, i),
            whole(one.parameters),
            whole(one.flops),
        )
        for i, one in enumerate(student.agents)
    ]
    return table(
        "Networks: inputs, trunk, memory, actions",
        "agent|expert|student|student parameters|student FLOPs a decision",
        rows,
    )


def memory_table(report: EvaluationReport) -> Table | None:
    """Return the bytes of each agent's network; None in documents that do not have them."""
    rows = []
    for who, team in (("expert", report.cost.expert), ("student", report.cost.student)):
        rows += [
            (f"{agent.agent}, {who}", *_bytes(agent.memory))
            for agent in team.agents
            if agent.memory is not None
        ]
    heads = "parameters, float32|float16|int8 with row scales|memory|largest live activation"
    found = table("Bytes of each network, its code apart", f"agent|{heads}|static RAM in C", rows)
    return found if rows else None


def prediction_table(report: EvaluationReport) -> Table | None:
    """Return what models of devices say, where some were named."""
    rows = [
        (
            f"{one.agent}, {one.who}, {one.prediction.engine} on {one.prediction.profile}",
            *_predicted(one.prediction),
        )
        for one in report.predictions
    ]
    heads = "agent, engine, device|latency, \N{GREEK SMALL LETTER MU}s|energy|fits|from|missing"
    return (
        table("Predicted for one decision: modelled, not measured", heads, rows) if rows else None
    )


def latency_table(report: LatencyReport) -> Table:
    """Return the timed decisions, and the engines that could not run."""
    rows = [
        (
            f"{row.who}, {row.engine}: {', '.join(row.agents)}",
            str(row.batch),
            *(number(t) for t in (row.p50_us, row.p95_us, row.p99_us, row.max_us)),
            *(
                DASH if x is None else f"{x:.1f}\N{MULTIPLICATION SIGN}"
                for x in (row.faster, row.engine_faster)
            ),
            energy(row.energy),
        )
        for row in report.rows
    ]
    rows += [
        (f"{one.who}, {one.engine}: unavailable", *[DASH] * 7, one.reason)
        for one in report.unavailable
    ]
    heads = "engine and agents|rows|p50, \N{GREEK SMALL LETTER MU}s|p95|p99|max|faster than the "
    heads += "expert in this engine|than this network in PyTorch|energy of a step"
    return table("Time of one step", heads, rows)


def energy(found: Energy) -> str:
    """Return an energy with its label, or why there is none."""
    if found.kind == "unavailable":
        return f"unavailable: {found.reason}"
    return f"{found.microjoules:,.3g} \N{GREEK SMALL LETTER MU}J, {found.kind}"


def _predicted(found: Prediction) -> tuple[str, ...]:
    latency = DASH if found.latency_us is None else number(found.latency_us)
    fits = {None: DASH, True: "yes", False: "no"}[found.fits]
    basis = f"{found.basis}: {', '.join(found.figures)}" if found.basis else DASH
    return latency, energy(found.energy), fits, basis, ", ".join(found.missing) or DASH


def _bytes(memory: AgentMemory) -> tuple[str, ...]:
    values = (
        memory.parameters_fp32,
        memory.parameters_fp16,
        memory.parameters_int8,
        memory.hidden,
        memory.activation,
        memory.ram,
    )
    return tuple(DASH if value is None else whole(value) for value in values)
