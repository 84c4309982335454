"""Batches of a few numbers, for losses that are worked out by hand."""

import torch

from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.terms.active import term_type
from kd_offline.distillation.terms.base import StudentBatch, TargetBatch
from kd_offline.distributions.categorical_tensors import CategoricalTensors


def term(name, **settings):
    """A loss term with some of its settings."""
    kind = term_type(name)
    return kind(kind.settings_type(**settings), distill_recipe())


def students(logits, embeddings=(), *, expert=None, available=None, alive=None, sides=None):
    """What a term is given of the students, from logits [S, N, A]."""
    logits = torch.as_tensor(logits, dtype=torch.float32)
    steps, agents, _ = logits.shape
    available = torch.ones(logits.shape, dtype=torch.bool) if available is None else available
    alive = torch.ones(steps, agents) if alive is None else torch.as_tensor(alive).float()
    return StudentBatch(
        policy=CategoricalTensors(logits, available),
        embeddings=list(embeddings),
        weight=alive,
        alive=alive,
        expert_policy=None if expert is None else CategoricalTensors(expert, available),
        side_of=sides or (0,) * agents,
    )


def target_batch(spec, logits=None, *, alive=None, **arrays):
    """What targets are made of, from arrays [B, T, ...] by their names in steps."""
    some = next(iter(arrays.values())) if logits is None else logits
    shape = (*some.shape[:2], spec.n_agents)
    available = torch.ones(*shape, spec.action_count, dtype=torch.bool)
    alive = torch.ones(shape, dtype=torch.bool) if alive is None else alive
    policy = None if logits is None else CategoricalTensors(torch.as_tensor(logits), available)
    named = {name if "/" in name else f"steps/{name}": x for name, x in arrays.items()}
    return TargetBatch(named, spec, None, alive, alive.float(), available, policy)


def gradients(loss, *leaves):
    """The gradients of a loss by some tensors."""
    return torch.autograd.grad(loss, leaves)
