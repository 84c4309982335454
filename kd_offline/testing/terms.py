"""Conformance check for loss terms: run it on your own term before distilling with it.

::

    from kd_offline.testing.terms import check_term

    check_term(MyTerm)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.episode_targets import EpisodeTargets, fit, in_file_order, make_targets
from kd_offline.distillation.objective import objective, student_batch
from kd_offline.distillation.targets import PackedTargets, TargetContext
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.distillation.terms.base import Elements, LossTerm, StudentBatch, TermSettings
from kd_offline.distillation.train import Training, train_team
from kd_offline.schemas.recipes import KD_MARL, DistillRecipe
from kd_offline.seeding import generator
from kd_offline.students.networks import StudentInputs, StudentTeam
from kd_offline.testing.conformance import ConformanceError, require
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from kd_offline.types import Array

_LENGTHS = (5, 9, 3, 7, 6, 4, 8, 5)
_WIDTHS = (6, 5, 6)
_TAPS = {"s_hat": 3, "feature": 6, "z": 4}  # inner layers of an expert that sees more
_GAMMA = 0.99


def check_term(
    term: type[LossTerm[Any]],
    settings: Mapping[str, Any] | None = None,
    *,
    student: Mapping[str, Any] | None = None,
    name: str = "checked",
    dataset: ExpertBuffer | None = None,
) -> None:
    """Raise :class:`ConformanceError` unless a loss term follows every rule of the protocol.

    Parameters
    ----------
    term
        The class.
    settings
        Of the term, where they are not the defaults.
    student
        Settings of the students, such as ``{"dueling": True}``.
    name
        That the term is registered by.
    dataset
        Recorded episodes, eight or more, where the term reads what the built-in random ones of
        three agents do not hold. Students see through its mask ``full``.

    Notes
    -----
    The rules, by the name an error begins with: ``declaration``, ``arrays``, ``fit``, ``targets``,
    ``auxiliary_heads``, ``loss``, ``gradients``, ``legal actions``, ``restored state``.
    """
    term_settings = _settings(term, settings or {})
    recipe = DistillRecipe.model_validate(
        {
            "weights": {**dict.fromkeys(KD_MARL, 0.0), name: 1.0, "regression": 1e-12},
            "terms": {name: term_settings.model_dump()},
            "mask": "part" if dataset is None else "full",
            "student": {"hidden": _WIDTHS, "depth": 1, **(student or {})},
            "optimisation": {"epochs": 2, "batch_episodes": 4},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        buffer = dataset or _recorded(Path(folder) / "recorded")
        subject = _CheckedTerm(term, term_settings, recipe, buffer, name)
        _check_arrays(subject)
        learned, repeated = subject.learned(), subject.learned()
        _check_targets(subject, learned, repeated)
        _check_heads(learned)
        _check_loss(learned)
        _check_restored(subject)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The targets and networks of one prepared distillation."""

    terms: ActiveTerms
    context: TargetContext
    targets: EpisodeTargets
    team: StudentTeam
    name: str

    def heads(self, seed: int = 0) -> AuxiliaryHeads:
        widths = [shape.embedding for shape in self.team.shapes]
        rng = generator(seed, "projection weights")
        taps = [shape.taps for shape in self.team.shapes]
        return AuxiliaryHeads(self.terms.auxiliary_heads(widths, self.team.spec, rng, taps))

    def whole(self) -> PackedTargets:
        return next(iter(self.targets.parts(len(self.targets))))


@dataclass(frozen=True, slots=True)
class _CheckedTerm:
    """The term that is checked, with its settings, recipe and dataset."""

    term: type[LossTerm[Any]]
    settings: TermSettings
    recipe: DistillRecipe
    buffer: ExpertBuffer
    name: str

    def active(self) -> ActiveTerms:
        return ActiveTerms(self.recipe, {self.name: self.term(self.settings, self.recipe)})

    def learned(self) -> _Prepared:
        terms = self.active()
        loader = in_file_order(self.buffer, np.arange(self.buffer.n_episodes), terms)
        statistics = fit(loader, terms)
        spec = self.buffer.spec
        widths = (_WIDTHS * spec.n_agents)[: spec.n_agents]
        rng = generator(0, "student weights")
        team = StudentTeam(spec, self.recipe.student, widths, rng, StudentInputs())
        team.scale_inputs(statistics.scale)
        context = TargetContext.of(self.buffer, terms, statistics, team)
        return _Prepared(terms, context, make_targets(loader, context), team, self.name)


def _settings(term: type[LossTerm[Any]], given: Mapping[str, Any]) -> TermSettings:
    rule = "declaration"
    require(issubclass(term, LossTerm), rule, f"{term.__name__} is no subclass of LossTerm")
    one_line = term.description and "\n" not in term.description
    require(one_line, rule, "description has to be one line")
    typed = issubclass(term.settings_type, TermSettings)
    require(typed, rule, "settings_type is no subclass of TermSettings")
    try:
        term.settings_type()
    except ValidationError as error:
        raise ConformanceError(rule, f"a setting has no default: {error}") from None
    return term.settings_type.model_validate(given)


def _check_arrays(subject: _CheckedTerm) -> None:
    present, rule = list(subject.buffer.names), "arrays"
    names, repeated = (subject.active().arrays(present) for _ in range(2))
    equal = names == repeated and all(isinstance(name, str) for name in names)
    require(equal, rule, f"they have to be the same names each time: {names}")
    missing = [name for name in names if name not in present]
    require(not missing, rule, f"{', '.join(missing)} is not in the dataset: give another one")


def _check_targets(subject: _CheckedTerm, learned: _Prepared, repeated: _Prepared) -> None:
    """Require finite targets that are the same when fitted again and for a single episode."""
    all_targets = learned.whole().targets.tensors()
    for name, values in all_targets.items():
        finite = torch.isfinite(values.double()).all()
        require(finite, "targets", f"{name!r} is not finite")
    for name, values in repeated.whole().targets.tensors().items():
        require(torch.equal(values, all_targets[name]), "fit", f"fitted again, {name!r} differs")
    loader = in_file_order(subject.buffer, np.array([1]), learned.terms)
    (single,) = make_targets(loader, learned.context).parts(1)
    in_batch = list(learned.targets.parts(1))[1].targets.tensors()
    for name, values in single.targets.tensors().items():
        equal = torch.allclose(values.double(), in_batch[name].double(), atol=1e-5)
        detail = f"{name!r} of an episode depends on the episodes that it is computed with"
        require(equal, "targets", detail)


def _check_heads(learned: _Prepared) -> None:
    """Require that initial weights follow from the given generator alone."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(learned.heads().state_dict())
    for name, values in states[0].items():
        detail = f"{name!r} is drawn from another generator than the one given"
        require(torch.equal(values, states[1][name]), "auxiliary_heads", detail)


def _check_loss(learned: _Prepared) -> None:
    """Require valid shapes, finite values and gradients, and a loss of 0 during the warm-up."""
    batch, heads = learned.whole(), learned.heads()
    step_targets = batch.targets
    inputs = learned.team.packed(step_targets.inputs, step_targets.last_actions, batch.sizes)
    found = learned.team.outputs(
        [learned.team.agent(i, inputs) for i in range(len(learned.team.widths))]
    )
    logits, embeddings = _leaf(found.logits), [_leaf(own) for own in found.embeddings]
    taps = {name: [_leaf(own) for own in each] for name, each in found.taps.items()}
    spec = learned.team.spec
    students = student_batch(logits, embeddings, step_targets, spec, taps)
    for name, elements in _losses(learned, students, heads).items():
        values, weight = elements.values, elements.weight
        shapes = f"values {tuple(values.shape)} and weight {tuple(weight.shape)}"
        shapes_match = values.shape == weight.shape and len(values) == len(step_targets.weight)
        require(shapes_match, "loss", f"{name!r} has {shapes} of {len(step_targets.weight)} steps")
        weight_is_valid = (weight >= 0).all() and not weight.requires_grad
        require(weight_is_valid, "loss", f"the weight of {name!r} is negative or learned")
        require(torch.isfinite(values).all(), "loss", f"{name!r} is not finite")
    terms = objective(students, step_targets, heads, learned.terms, 1.0)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    inner = [own for each in taps.values() for own in each]
    leaves = [logits, *embeddings, *inner, *(p for p in heads.parameters() if p.requires_grad)]
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    finite = gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    require(finite, "gradients", "they are not finite, or there are none")
    early = objective(students, step_targets, heads, learned.terms, -1.0)["loss"]
    require(early.item() == 0.0, "loss", "it counts before its warm-up is over")
    _check_legal(learned, students, heads, terms["loss"])


def _leaf(values: Tensor) -> Tensor:
    return values.detach().requires_grad_()


def _losses(
    learned: _Prepared, students: StudentBatch, heads: AuxiliaryHeads
) -> dict[str, Elements]:
    batch = learned.whole().targets
    losses = dict(learned.terms.losses(students, batch.terms, heads.by_term()))
    require(learned.name in losses, "loss", "nothing is learned from the dataset: give another")
    return losses[learned.name]


def _check_legal(
    learned: _Prepared, students: StudentBatch, heads: AuxiliaryHeads, former_loss: Tensor
) -> None:
    """Require that neither illegal actions nor agents that are not alive change the loss."""
    batch = learned.whole().targets
    counted = (batch.alive > 0).unsqueeze(-1)
    spoiled = students.policy.parameters.detach().clone()
    spoiled = torch.where(batch.available & counted, spoiled, spoiled + 3.0)

    def without_dead(each: Sequence[Tensor]) -> list[Tensor]:
        return [
            torch.where(counted[:, i], own.detach(), own.detach() + 0.5)
            for i, own in enumerate(each)
        ]

    embeddings = without_dead(students.embeddings)
    taps = {name: without_dead(each) for name, each in students.taps.items()}
    changed_students = student_batch(spoiled, embeddings, batch, learned.team.spec, taps)
    changed_loss = objective(changed_students, batch, heads, learned.terms, 1.0)["loss"]
    unchanged = torch.allclose(changed_loss, former_loss, atol=1e-5, rtol=1e-4)
    require(unchanged, "legal actions", "the loss depends on them, or on agents that are not alive")


def _check_restored(subject: _CheckedTerm) -> None:
    """Require that a training that is saved and restored continues with the same bits."""
    ends = []
    for stop in (None, 1):
        learned = subject.learned()
        state = _training(learned)
        for _ in train_team(state, learned.targets, None, learned.terms, 0):
            if state.epoch == stop:
                break
        if stop is not None:
            saved = {name: values.clone() for name, values in state.tensors().items()}
            learned = subject.learned()
            state = _training(learned)
            state.restore(stop, saved)
            list(train_team(state, learned.targets, None, learned.terms, 0))
        ends.append(state.tensors())
    for name, values in ends[0].items():
        detail = f"{name!r} differs: the term keeps something that its heads' state lacks"
        require(torch.equal(values, ends[1][name]), "restored state", detail)


def _training(learned: _Prepared) -> Training:
    schedule = learned.terms.recipe.optimisation
    return Training.begin(learned.team, learned.heads(), schedule)


def _recorded(path: Path) -> ExpertBuffer:
    """Write eight random episodes with all arrays that a term may read."""
    spec = environment_spec((6, 4, 6), (5, 4, 5))
    block = episode_block(spec, _LENGTHS, seed=1)
    rng, steps = np.random.default_rng(2), dict(block.steps)
    rows = len(steps["reward"])
    steps["q_values"] = rng.normal(10, 2, (rows, spec.n_agents, 5)).astype(np.float32)
    steps["q_tot"] = rng.normal(30, 4, rows).astype(np.float32)
    steps["mixer_credit"] = rng.random((rows, spec.n_agents)).astype(np.float32)
    steps["alive"] = rng.random((rows, spec.n_agents)) < 0.8
    steps["alive"][:, 0] = True
    steps["available_actions"] = steps["available_actions"] & steps["alive"][..., None]
    steps["actions"] = steps["available_actions"].argmax(-1).astype(np.int16)
    steps["action_source"] = (rng.random((rows, spec.n_agents)) < 0.2).astype(np.uint8)
    steps["behaviour_logprob"] = np.full((rows, spec.n_agents), -1.0, np.float32)
    steps["terminated"] = steps["terminated"] | steps["truncated"]
    steps["truncated"] = np.zeros(rows, bool)
    steps["value"] = _values(steps["reward"], steps["terminated"], rng)
    for tap, width in _TAPS.items():
        drawn = rng.normal(1, 2, (rows, spec.n_agents, width))
        steps[f"embedding_{tap}"] = drawn.astype(np.float16)
    full = full_mask(spec)
    part = full & (np.arange(spec.obs_width) != 1)
    with DatasetWriter.create(path, header(spec, masks=("full", "part"))) as writer:
        writer.append(replace(block, steps=steps))
        writer.commit({"full": full, "part": part})
    return ExpertBuffer.open(path)


def _values(reward: Array, ends: Array, rng: np.random.Generator) -> Array:
    """Return the team's discounted returns with a little noise, like a good critic's values."""
    team = reward.mean(-1)
    value, following = np.zeros_like(team), 0.0
    for row in reversed(range(len(team))):
        following = team[row] + (0.0 if ends[row] else _GAMMA * following)
        value[row] = following
    noise = 0.05 * rng.standard_normal(reward.shape)
    values: Array = (value[:, None] + noise).astype(np.float32)
    return values
