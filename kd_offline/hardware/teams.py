"""Predict latency and energy of a decision of every agent, for expert and students."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kd_offline.hardware.model import Demand, predict
from kd_offline.schemas.evaluation import AgentCost, Cost, CostPrediction
from kd_offline.schemas.hardware import HardwareProfile


def predictions(cost: Cost, profiles: Sequence[HardwareProfile]) -> tuple[CostPrediction, ...]:
    """Return a prediction for each device, agent and engine.

    Experts and students are predicted in C. Experts are also predicted in eager PyTorch, where the
    device was calibrated with it.
    """
    return tuple(
        prediction for profile in profiles for prediction in _profile_predictions(cost, profile)
    )


def _profile_predictions(cost: Cost, profile: HardwareProfile) -> Iterator[CostPrediction]:
    engines = ["c", "torch"] if "torch" in profile.engines else ["c"]
    for expert, student in zip(cost.expert.agents, cost.student.agents, strict=True):
        for engine in engines:
            prediction = predict(profile, _demand(expert), engine)
            yield CostPrediction(who="expert", agent=expert.agent, prediction=prediction)
        prediction = predict(profile, _demand(student), "c")
        yield CostPrediction(who="student", agent=student.agent, prediction=prediction)


def _demand(agent: AgentCost) -> Demand:
    memory = agent.memory
    if memory is None:
        return Demand(agent.macs, 4 * agent.parameters)
    sparse = agent.zeros > 0
    ram = memory.ram
    if ram is None and memory.hidden is not None and memory.activation is not None:
        ram = memory.hidden + memory.activation
    return Demand(agent.macs, memory.parameters_fp32, ram, flash_bytes=memory.flash, sparse=sparse)
