"""The loss terms of a distillation that have a weight, with one interface."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from torch import Tensor, nn

from kd_offline.distillation.methods import METHODS
from kd_offline.distillation.terms import TERMS
from kd_offline.distillation.terms.base import (
    Accumulator,
    Elements,
    LossTerm,
    StudentBatch,
    TargetBatch,
    TrainingEpisodes,
)
from kd_offline.errors import MissingArrayError, Remedy, UserCodeError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.user_code import calling

ALWAYS = ("steps/obs", "steps/available_actions", "steps/alive")
"""Arrays that every distillation reads."""

RESERVED_NAMES = frozenset(
    ("loss", "gradient_norm", "resources", "budget_used", "agreement", "joint_agreement")
) | {"seed", "epoch", "split"}
"""Names in metric rows that a loss term may not have."""

_MOST_METHODS = 6
"""Methods that an error names as possible, the first ones."""

Targets = Mapping[str, Mapping[str, Tensor]]  # of every term, by name


def term_type(name: str) -> type[LossTerm[Any]]:
    """Return the class of a loss term.

    Raises
    ------
    UnknownNameError, UsageError
        There is no such term, or several packages offer it.
    UserCodeError
        The object of a plug-in is no loss term, or its name is not allowed in metric rows.
    """
    term = TERMS.load(name)
    error = ""
    if not (isinstance(term, type) and issubclass(term, LossTerm)):
        error = "it is no subclass of kd_offline.distillation.terms.base.LossTerm"
    elif not re.fullmatch("[a-z][a-z0-9_]*", name) or name in RESERVED_NAMES:
        error = "its name has to be of small letters, digits and _, and none of a metric's"
    if error:
        msg = f"the loss term {name!r} of {TERMS.origin(name)} cannot be used: {error}"
        raise UserCodeError(msg)
    return term


class ActiveTerms:
    """The terms of a recipe, by name; :meth:`of` creates those with a weight.

    ``packages`` maps the terms of plug-ins to their packages, for error messages.
    """

    def __init__(
        self,
        recipe: DistillRecipe,
        terms: Mapping[str, LossTerm[Any]],
        packages: Mapping[str, str] | None = None,
    ) -> None:
        self.recipe = recipe
        self.terms = dict(terms)
        self._packages = dict(packages or {})

    @classmethod
    def of(cls, recipe: DistillRecipe) -> ActiveTerms:
        """Return the terms whose weight is not zero, in the order of their registry.

        ``recipe`` is complete, see :func:`kd_offline.distillation.recipe.completed`.
        """
        active = cls(recipe, {})
        for name in (name for name in TERMS if recipe.weights.get(name)):
            term, origin = term_type(name), TERMS.origin(name)
            if not origin.ours:
                active._packages[name] = str(origin)
            with active._user_code_boundary(name, "__init__"):
                settings = term.settings_type.model_validate(recipe.terms.get(name, {}))
                active.terms[name] = term(settings, recipe)
        return active

    def only(self, name: str) -> ActiveTerms:
        """Return an objective with only one of the terms."""
        return ActiveTerms(self.recipe, {name: self.terms[name]}, self._packages)

    def arrays(self, present: Collection[str]) -> list[str]:
        """Return the arrays that the terms read, except masks, where a dataset has ``present``."""
        names = list(ALWAYS)
        for name, term in self.terms.items():
            with self._user_code_boundary(name, "arrays"):
                names += term.arrays(present)
        return list(dict.fromkeys(names))

    def missing(self, present: Collection[str]) -> list[str]:
        """Return the arrays that the terms read and that are not in ``present``."""
        return [name for name in self.arrays(present) if name not in present]

    def recorded_by(self, present: Collection[str]) -> list[Remedy]:
        """Return how the missing arrays are recorded, if the terms state it."""
        remedies = {}
        for name in self.terms:
            with self._user_code_boundary(name, "recorded_by"):
                if self.only(name).missing(present) and (remedy := self.terms[name].recorded_by()):
                    remedies[str(remedy)] = remedy
        return list(remedies.values())

    def fit(self, episodes: TrainingEpisodes) -> Fit:
        """Return the accumulators of the statistics of all terms."""
        accumulators = {}
        for name, term in self.terms.items():
            with self._user_code_boundary(name, "fit"):
                accumulator = term.fit(episodes)
            if accumulator is not None:
                accumulators[name] = accumulator
        return Fit(self, accumulators)

    def targets(self, batch: TargetBatch) -> Targets:
        """Return the targets of every term, [B, T, ...] each."""
        targets: dict[str, dict[str, Tensor]] = {}
        for name, term in self.terms.items():
            with self._user_code_boundary(name, "targets"):
                targets[name] = term.targets(batch)
                for key, tensor in targets[name].items():
                    if tensor.shape[:2] != batch.alive.shape[:2]:
                        msg = f"{key!r} has the shape {tuple(tensor.shape)}, not [B, T, ...]"
                        raise ValueError(msg)
        return targets

    def auxiliary_heads(
        self,
        widths: Sequence[int],
        spec: EnvironmentSpec,
        rng: np.random.Generator,
        tap_widths: Sequence[Mapping[str, int]] = (),
    ) -> dict[str, nn.Module]:
        """Return the auxiliary networks of the terms, by name; terms without one are absent.

        ``widths`` and ``tap_widths`` are those of each agent's embedding and inner layers.
        """
        heads_by_term = {}
        # Initial weights are drawn, and gradients clipped, in this order: another order changes
        # results in the last bits.
        for name in sorted(self.terms, reverse=True):
            self.terms[name].tap_widths = tap_widths or [{} for _ in widths]
            with self._user_code_boundary(name, "auxiliary_heads"):
                heads = self.terms[name].auxiliary_heads(widths, spec, rng)
            if heads is not None:
                heads_by_term[name] = heads
        return heads_by_term

    def frozen(self, heads: Mapping[str, Sequence[nn.Module]], update: int) -> Iterator[Tensor]:
        """Yield the parameters that an update leaves as they are; ``heads`` of a term: of seeds."""
        for name, modules in heads.items():
            with self._user_code_boundary(name, "frozen"):
                for module in modules:
                    yield from self.terms[name].frozen(module, update)

    @property
    def criteria(self) -> list[str]:
        """The figures that choose the best epoch before the held-out KL does."""
        return [term.criterion for term in self.terms.values() if term.criterion]

    def saved(self, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Return the weights of the auxiliary networks that are kept, as ``term.name``."""
        return {
            f"{name}.{key}": values.cpu()
            for name, module in heads.items()
            if self.terms[name].saves_heads
            for key, values in module.state_dict().items()
        }

    def losses(
        self, students: StudentBatch, targets: Targets, heads: Mapping[str, nn.Module]
    ) -> Iterator[tuple[str, dict[str, Elements]]]:
        """Yield the name and the losses of every term that has a loss for this batch."""
        for name, term in self.terms.items():
            with self._user_code_boundary(name, "loss"):
                loss = term.loss(students, targets.get(name, {}), heads.get(name))
                if loss is not None:
                    losses = {name: loss} if isinstance(loss, Elements) else dict(loss)
                    self._require_own_names(name, losses)
            if loss is not None:
                yield name, losses

    def validation(
        self, students: StudentBatch, targets: Targets, counted: Tensor
    ) -> dict[str, Elements]:
        """Return the additional metrics of all terms on held-out episodes."""
        figures: dict[str, Elements] = {}
        for name, term in self.terms.items():
            with self._user_code_boundary(name, "validation"):
                term_figures = term.validation(students, targets.get(name, {}), counted)
                self._require_own_names(name, term_figures)
            figures |= term_figures
        return figures

    def _require_own_names(self, name: str, figures: Iterable[str]) -> None:
        """Raise if a plug-in's metric has a name that could hide another metric."""
        foreign_names = [
            figure for figure in figures if figure != name and not figure.startswith(f"{name}_")
        ]
        if foreign_names and name in self._packages:
            msg = f"it calls a figure {foreign_names[0]!r}: let the name begin with {name + '_'!r}"
            raise ValueError(msg)

    def _user_code_boundary(self, name: str, call: str) -> AbstractContextManager[None]:
        """Return a context in which errors of a plug-in's code name its package."""
        package = self._packages.get(name)
        if not package:
            return nullcontext()
        return calling(f"the loss term {name!r} of {package}", call)


class Fit:
    """The accumulators of all terms; :meth:`finish` stores their statistics in the terms."""

    def __init__(self, terms: ActiveTerms, accumulators: dict[str, Accumulator]) -> None:
        self._terms = terms
        self.accumulators = accumulators

    @property
    def arrays(self) -> list[str]:
        """The arrays that the accumulators read."""
        return [name for accumulator in self.accumulators.values() for name in accumulator.arrays]

    def finish(self) -> None:
        """Store in every term its statistics."""
        for name, accumulator in self.accumulators.items():
            with self._terms._user_code_boundary(name, "finish"):
                self._terms.terms[name].statistics = accumulator.finish()


def check_arrays(recipe: DistillRecipe, present: Collection[str]) -> None:
    """Raise a ``MissingArrayError`` if a dataset lacks arrays that a recipe reads."""
    missing = ActiveTerms.of(recipe).missing(present)
    if not missing:
        return
    advice = []
    for name in recipe.weights:
        without = recipe.model_copy(update={"weights": {**recipe.weights, name: 0.0}})
        if recipe.weights[name] and not ActiveTerms.of(without).missing(present):
            advice.append(f"set weights.{name} to 0")
    possible_methods = [
        name
        for name, method in METHODS.items()
        if not ActiveTerms.of(method.recipe()).missing(present)
    ][:_MOST_METHODS]
    if possible_methods:
        advice.append(f"choose the method {' or '.join(possible_methods)}")
    remedies = ActiveTerms.of(recipe).recorded_by(present)
    msg = f"method {recipe.method!r} needs {', '.join(missing)}, not in this dataset"
    if advice:
        msg += f": {', or '.join(advice)}"
    elif not remedies:
        remedies = [Remedy("record it with an expert")]
    raise MissingArrayError(msg, *remedies)
