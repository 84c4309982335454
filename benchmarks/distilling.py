"""What a step of distillation costs, and the parts of it that were made faster.

    python -m benchmarks.distilling --repeats 30

Records a small dataset of simple_spread, prepares the default recipe from it and times, one thread,
in turns: the whole step of KD-MARL, of plain KL, and of KD-MARL with PyTorch's own Muon; both kinds
of Muon alone; a log-softmax with the action axis innermost and outermost in memory. Processor
milliseconds: median, least and most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.muon import Muon
from kd_offline.distillation.objective import objective, student_batch
from kd_offline.distillation.parallel_agents import parallel_agents
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.run import prepare
from kd_offline.distillation.train import Training
from kd_offline.distributions.categorical_tensors import log_softmax
from kd_offline.recording.record import record

Timed = Callable[[], object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        record("mpe/simple_spread_v3", f"{folder}/data.zarr", episodes=500, threads=1)
        buffer = ExpertBuffer.open(f"{folder}/data.zarr")
        timed = {
            f"step {method}{' with torch.optim.Muon' if theirs else ''}": step_of(
                buffer, method, Path(folder), theirs=theirs
            )
            for method, theirs in (("kd-marl", False), ("kl", False), ("kd-marl", True))
        }
        result = in_turns({**timed, **optimisers(), **layouts()}, given.repeats)
    if given.json:
        print(json.dumps(result))
        return
    for name, (middle, low, high) in result.items():
        print(f"{name:44} {middle:7.2f} ms  ({low:.2f} to {high:.2f})")


def in_turns(timed: dict[str, Timed], repeats: int) -> dict[str, tuple[float, float, float]]:
    """Call everything once a round; returns processor milliseconds: median, least, most."""
    spent: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repeats + 3):
        for name, call in timed.items():
            began = time.process_time()
            call()
            if turn >= 3:  # the first rounds warm up
                spent[name].append(1e3 * (time.process_time() - began))
    return {name: (statistics.median(x), min(x), max(x)) for name, x in spent.items()}


def step_of(buffer: ExpertBuffer, method: str, folder: Path, *, theirs: bool) -> Timed:
    """Return one step of the training loop as a call: forth, back, optimisers."""
    recipe = distill_recipe(settings={"method": method})
    run = prepare(buffer, folder / f"{method}-{theirs}", recipe, "", "", False, False)
    team = run.design.team(0)
    heads = run.design.heads(0, team, run.terms)
    state = Training.begin(team, heads, recipe.optimisation)
    if theirs:
        adamw, muon = state.optimisers
        state.optimisers = [adamw, torch.optim.Muon(muon.param_groups[0]["params"])]
    size = recipe.optimisation.batch_episodes
    batch = next(iter(run.train.epoch(size, 0, 0)))

    def step() -> None:
        for optimiser in state.optimisers:
            optimiser.zero_grad()
        with parallel_agents(team, 1) as passes:
            given = passes.forward(batch)
            students = student_batch(
                given.logits, given.embeddings, batch.targets, team.spec, given.taps
            )
            # Half way through, so that the policy term takes part.
            found = objective(students, batch.targets, heads, run.terms, progress=0.5)
            passes.backward(found["loss"])
        torch.nn.utils.clip_grad_norm_(state.parameters, 1.0)
        for optimiser in state.optimisers:
            optimiser.step()

    return step


def optimisers() -> Mapping[str, Timed]:
    """Return a step of Muon over the matrices of three 32-wide students, ours and PyTorch's."""
    shapes = [(32, 32), (32, 32), (96, 32), (96, 32)] * 3
    calls = {}
    for name, kind in (
        ("Muon, all of a shape at once", Muon),
        ("torch.optim.Muon", torch.optim.Muon),
    ):
        matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        for matrix in matrices:
            matrix.grad = torch.randn_like(matrix)
        calls[name] = kind(matrices, 0.02).step
    return calls


def layouts() -> Mapping[str, Timed]:
    """Return a log-softmax, forth and back, of logits [25, 128, 3, 5] in both memory orders."""
    inner = torch.randn(25, 128, 3, 5)
    outer = inner.movedim(-1, 0).contiguous().movedim(0, -1)
    return {
        "log-softmax, actions innermost": forth_and_back(inner, partial(torch.log_softmax, dim=-1)),
        "log-softmax, actions outermost": forth_and_back(outer, log_softmax),
    }


def forth_and_back(values: torch.Tensor, of: Callable[[torch.Tensor], torch.Tensor]) -> Timed:
    """Return the call of a function and of its gradient."""
    values = values.requires_grad_()
    upstream = torch.randn_like(values)
    return lambda: torch.autograd.backward(of(values), upstream)


if __name__ == "__main__":
    main()
