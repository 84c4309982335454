"""The loss terms that take part in a distillation, called as one."""

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
from kd_offline.errors import MissingArrayError, UserCodeError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.user_code import calling

ALWAYS = ("steps/obs", "steps/available_actions", "steps/alive")
"""Arrays that every distillation needs."""

TAKEN = frozenset(
    ("loss", "gradient_norm", "resources", "budget_used", "agreement", "joint_agreement")
) | {"seed", "epoch", "split"}
"""Names in metric rows that are no loss term's."""

Targets = Mapping[str, Mapping[str, Tensor]]  # of every term, by name


def term_type(name: str) -> type[LossTerm[Any]]:
    """Return the class of a loss term.

    Raises
    ------
    UnknownNameError, UsageError
        There is no such term, or several packages offer it.
    UserCodeError
        What a plug-in offers is no loss term, or cannot be called so in recipes and metric rows.
    """
    found = TERMS.load(name)
    fault = ""
    if not (isinstance(found, type) and issubclass(found, LossTerm)):
        fault = "it is no subclass of kd_offline.distillation.terms.base.LossTerm"
    elif not re.fullmatch("[a-z][a-z0-9_]*", name) or name in TAKEN:
        fault = "its name has to be of small letters, digits and _, and none of a metric's"
    if fault:
        msg = f"the loss term {name!r} of {TERMS.origin(name)} cannot be used: {fault}"
        raise UserCodeError(msg)
    return found


class ActiveTerms:
    """The terms of a recipe, by name; :meth:`of` makes those that have a weight.

    ``packages``: where those come from that are not ours, for errors.
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
        made = cls(recipe, {})
        for name in (name for name in TERMS if recipe.weights.get(name)):
            kind, origin = term_type(name), TERMS.origin(name)
            if not origin.ours:
                made._packages[name] = str(origin)
            with made._border(name, "__init__"):
                settings = kind.settings_type.model_validate(recipe.terms.get(name, {}))
                made.terms[name] = kind(settings, recipe)
        return made

    def only(self, name: str) -> ActiveTerms:
        """Return one of the terms alone."""
        return ActiveTerms(self.recipe, {name: self.terms[name]}, self._packages)

    def arrays(self, present: Collection[str]) -> list[str]:
        """Return all that is read of a dataset with the arrays ``present``, but for its mask."""
        names = list(ALWAYS)
        for name, term in self.terms.items():
            with self._border(name, "arrays"):
                names += term.arrays(present)
        return list(dict.fromkeys(names))

    def missing(self, present: Collection[str]) -> list[str]:
        """Return the arrays that a dataset lacks."""
        return [name for name in self.arrays(present) if name not in present]

    def fit(self, episodes: TrainingEpisodes) -> Fit:
        """Return what collects the statistics of all terms."""
        found = {}
        for name, term in self.terms.items():
            with self._border(name, "fit"):
                accumulator = term.fit(episodes)
            if accumulator is not None:
                found[name] = accumulator
        return Fit(self, found)

    def targets(self, batch: TargetBatch) -> Targets:
        """Return the targets of every term, [B, T, ...] each."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, term in self.terms.items():
            with self._border(name, "targets"):
                found[name] = term.targets(batch)
                for key, tensor in found[name].items():
                    if tensor.shape[:2] != batch.alive.shape[:2]:
                        msg = f"{key!r} has the shape {tuple(tensor.shape)}, not [B, T, ...]"
                        raise ValueError(msg)
        return found

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> dict[str, nn.Module]:
        """Return the auxiliary networks of the terms that have any."""
        found = {}
        # In this order their weights have always been drawn and their gradients clipped: another
        # one changes results in the last bits.
        for name in sorted(self.terms, reverse=True):
            with self._border(name, "auxiliary_heads"):
                heads = self.terms[name].auxiliary_heads(widths, spec, rng)
            if heads is not None:
                found[name] = heads
        return found

    def losses(
        self, students: StudentBatch, targets: Targets, heads: Mapping[str, nn.Module]
    ) -> Iterator[tuple[str, dict[str, Elements]]]:
        """Yield every term that has something to learn, and its losses by name."""
        for name, term in self.terms.items():
            with self._border(name, "loss"):
                found = term.loss(students, targets.get(name, {}), heads.get(name))
                if found is not None:
                    named = {name: found} if isinstance(found, Elements) else dict(found)
                    self._require_own(name, named)
            if found is not None:
                yield name, named

    def validation(
        self, students: StudentBatch, targets: Targets, counted: Tensor
    ) -> dict[str, Elements]:
        """Return the further figures of all terms on held-out episodes."""
        found: dict[str, Elements] = {}
        for name, term in self.terms.items():
            with self._border(name, "validation"):
                more = term.validation(students, targets.get(name, {}), counted)
                self._require_own(name, more)
            found |= more
        return found

    def _require_own(self, name: str, figures: Iterable[str]) -> None:
        """Refuse names of figures by which a plug-in would hide those of others."""
        foreign = [f for f in figures if f != name and not f.startswith(f"{name}_")]
        if foreign and name in self._packages:
            msg = f"it calls a figure {foreign[0]!r}: let the name begin with {name + '_'!r}"
            raise ValueError(msg)

    def _border(self, name: str, call: str) -> AbstractContextManager[None]:
        """Name the package where code of a plug-in fails."""
        package = self._packages.get(name)
        if not package:
            return nullcontext()
        return calling(f"the loss term {name!r} of {package}", call)


class Fit:
    """The accumulators of all terms; :meth:`finish` gives their statistics to the terms."""

    def __init__(self, terms: ActiveTerms, accumulators: dict[str, Accumulator]) -> None:
        self._terms = terms
        self.accumulators = accumulators

    @property
    def arrays(self) -> list[str]:
        """What they read."""
        return [name for each in self.accumulators.values() for name in each.arrays]

    def finish(self) -> None:
        """Give every term its statistics."""
        for name, accumulator in self.accumulators.items():
            with self._terms._border(name, "finish"):
                self._terms.terms[name].statistics = accumulator.finish()


def check_arrays(recipe: DistillRecipe, present: Collection[str]) -> None:
    """Raise ``MissingArrayError`` where a dataset lacks what a recipe reads."""
    missing = ActiveTerms.of(recipe).missing(present)
    if not missing:
        return
    advice = []
    for name in recipe.weights:
        without = recipe.model_copy(update={"weights": {**recipe.weights, name: 0.0}})
        if recipe.weights[name] and not ActiveTerms.of(without).missing(present):
            advice.append(f"set weights.{name} to 0")
    able = [name for name, m in METHODS.items() if not ActiveTerms.of(m.recipe()).missing(present)]
    advice += [f"choose the method {' or '.join(able)}"] if able else ["record it with an expert"]
    msg = (
        f"method {recipe.method!r} needs {', '.join(missing)}, not in this dataset: "
        f"{', or '.join(advice)}"
    )
    raise MissingArrayError(msg)
