"""The agents of a team, trained in threads: gradients of the same bits, sooner.

The networks of a team share nothing but the loss. So each agent's forward and backward pass is a
graph of its own, which PyTorch works through without Python's lock, and the loss is a small graph
on top of their outputs. How many threads there are changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from kd_offline.distillation.episode_targets import EpisodeTargets
from kd_offline.distillation.targets import PackedTargets
from kd_offline.networks.packed import Packed
from kd_offline.students.networks import StudentTeam, TeamOutputs


@dataclass(slots=True)
class ParallelAgents:
    """One team's passes over batches; see :func:`parallel_agents`."""

    team: StudentTeam
    each: Callable[[Callable[[int], None]], object]  # runs a function of every agent
    _outputs: dict[int, Packed] = field(default_factory=dict)
    _leaves: dict[int, Packed] = field(default_factory=dict)

    def batches(
        self, train: EpisodeTargets, size: int, seeds: Sequence[int], epoch: int
    ) -> Iterator[PackedTargets]:
        """Yield the batches of an epoch; ``seeds`` is one."""
        (seed,) = seeds
        return train.epoch(size, seed, epoch)

    def forward(self, batch: PackedTargets) -> TeamOutputs:
        """Return the outputs of the team, from which a loss is computed."""
        given, sizes = batch
        inputs = self.team.packed(given.inputs, given.last_actions, sizes)

        def run(agent: int) -> None:
            found = self._outputs[agent] = self.team.agent(agent, inputs)
            self._leaves[agent] = found._replace(
                outputs=found.outputs.detach().requires_grad_(),
                embedding=found.embedding.detach().requires_grad_(),
                taps={name: tap.detach().requires_grad_() for name, tap in found.taps.items()},
            )

        self.each(run)
        return self.team.outputs([self._leaves[agent] for agent in range(len(self.team.widths))])

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, made of the last :meth:`forward`, to the parameters."""
        loss.backward()  # type: ignore[no-untyped-call]

        def run(agent: int) -> None:
            pairs = zip(
                _read(self._outputs.pop(agent)), _read(self._leaves.pop(agent)), strict=True
            )
            # The embedding of a network without hidden layers is its input, which learns nothing.
            learned = [(out, leaf.grad) for out, leaf in pairs if out.requires_grad]
            used = [(out, grad) for out, grad in learned if grad is not None]
            torch.autograd.backward([out for out, _ in used], [grad for _, grad in used])

        self.each(run)


def _read(agent: Packed) -> tuple[Tensor, ...]:
    """Return what losses read of an agent: everything but its memory."""
    return tuple(part for name, part in agent.parts().items() if name != "memory")


@contextmanager
def parallel_agents(team: StudentTeam, threads: int) -> Iterator[ParallelAgents]:
    """Return a context with the forward passes of ``team``, in up to one thread for each agent."""
    agents = range(len(team.widths))
    # OpenMP keeps its number of threads for each thread, and sums depend on it. That of the caller
    # is not ours to know, so that even a single thread is one of the pool.
    alone = partial(torch.set_num_threads, 1)
    with ThreadPoolExecutor(min(threads, len(agents)), "agent", initializer=alone) as pool:
        yield ParallelAgents(team, lambda run: list(pool.map(run, agents)))
