"""Tables of the cost of decisions: counted, predicted for devices, and timed."""

from __future__ import annotations

from kd_offline.reports.formatting import number, whole
from kd_offline.reports.tables import Table, table
from kd_offline.schemas.evaluation import AgentMemory, EvaluationReport, TeamCost
from kd_offline.schemas.hardware import Energy, Prediction
from kd_offline.schemas.latency import LatencyReport

DASH = "\N{EN DASH}"


def cost_table(report: EvaluationReport) -> Table:
    """Return the costs of the team, expert beside students."""
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
            row(
                "bytes of parameters, float32", _parameter_bytes(expert), _parameter_bytes(student)
            ),
            *_critic_rows(report),
        ],
    )


def _parameter_bytes(team: TeamCost) -> int:
    """Return the bytes of a team's parameters; for students, of those that export keeps."""
    return sum(
        4 * agent.parameters if agent.memory is None else agent.memory.parameters_fp32
        for agent in team.agents
    )


def _critic_rows(report: EvaluationReport) -> list[tuple[str, ...]]:
    """Return rows for the cost of the expert with its critic or mixer, if it has one."""
    cost = report.cost.expert_with_critic
    if cost is None:
        return []
    steps = number(cost.episode.mean_length, 1)
    suffix = "with the expert's critic or mixer"
    return [
        (f"parameters, {suffix}", whole(cost.parameters), DASH, DASH),
        (f"FLOPs a decision, {suffix}", whole(cost.flops_per_decision), DASH, DASH),
        (f"FLOPs a team step, {suffix}", whole(cost.flops), DASH, DASH),
        (f"FLOPs an episode of {steps} steps, {suffix}", whole(cost.episode.flops), DASH, DASH),
    ]


def network_table(report: EvaluationReport) -> Table:
    """Return the layers of each agent's network, expert beside student."""

    def shape(team: TeamCost, i: int) -> str:
        agent = team.agents[i]
        gru = [] if agent.gru is None else [f"GRU {agent.gru}"]
        arrow = " \N{RIGHTWARDS ARROW} "
        layers = [*map(str, agent.trunk), *gru, *agent.layers]
        zeros = f", {agent.zeros / (agent.zeros + agent.macs):.0%} zeros" if agent.zeros else ""
        return arrow.join([str(agent.inputs), *layers, str(agent.actions)]) + zeros

    expert, student = report.cost.expert, report.cost.student
    rows = [
        (
            agent.agent,
            shape(expert, i),
            shape(student, i),
            whole(agent.parameters),
            whole(agent.flops),
        )
        for i, agent in enumerate(student.agents)
    ]
    return table(
        "Networks: inputs, trunk, memory, actions",
        "agent|expert|student|student parameters|student FLOPs a decision",
        rows,
    )


def memory_table(report: EvaluationReport) -> Table | None:
    """Return the bytes of each agent's network; None in documents of versions without them."""
    rows = []
    for policy, team in (("expert", report.cost.expert), ("student", report.cost.student)):
        rows += [
            (f"{agent.agent}, {policy}", *_memory_cells(agent.memory))
            for agent in team.agents
            if agent.memory is not None
        ]
    headings = "parameters, float32|float16|int8 with row scales|memory|largest live activation"
    bytes_table = table(
        "Bytes of each network, its code apart", f"agent|{headings}|static RAM in C", rows
    )
    return bytes_table if rows else None


def prediction_table(report: EvaluationReport) -> Table | None:
    """Return predicted latency and energy for each named device; None without devices."""
    rows = [
        (
            f"{row.agent}, {row.who}, {row.prediction.engine} on {row.prediction.profile}",
            *_prediction_cells(row.prediction),
        )
        for row in report.predictions
    ]
    headings = "agent, engine, device|latency, \N{GREEK SMALL LETTER MU}s|energy|fits|from|missing"
    return (
        table("Predicted for one decision: modelled, not measured", headings, rows)
        if rows
        else None
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
            energy_text(row.energy),
        )
        for row in report.rows
    ]
    rows += [
        (f"{missing.who}, {missing.engine}: unavailable", *[DASH] * 7, missing.reason)
        for missing in report.unavailable
    ]
    headings = "engine and agents|rows|p50, \N{GREEK SMALL LETTER MU}s|p95|p99|max|faster than the "
    headings += "expert in this engine|than this network in PyTorch|energy of a step"
    return table("Time of one step", headings, rows)


def energy_text(value: Energy) -> str:
    """Return an energy with its kind, or the reason why there is none."""
    if value.kind == "unavailable":
        return f"unavailable: {value.reason}"
    return f"{value.microjoules:,.3g} \N{GREEK SMALL LETTER MU}J, {value.kind}"


def _prediction_cells(prediction: Prediction) -> tuple[str, ...]:
    latency = DASH if prediction.latency_us is None else number(prediction.latency_us)
    fits = {None: DASH, True: "yes", False: "no"}[prediction.fits]
    basis = f"{prediction.basis}: {', '.join(prediction.figures)}" if prediction.basis else DASH
    return (
        latency,
        energy_text(prediction.energy),
        fits,
        basis,
        ", ".join(prediction.missing) or DASH,
    )


def _memory_cells(memory: AgentMemory) -> tuple[str, ...]:
    values = (
        memory.parameters_fp32,
        memory.parameters_fp16,
        memory.parameters_int8,
        memory.hidden,
        memory.activation,
        memory.ram,
    )
    return tuple(DASH if value is None else whole(value) for value in values)
