"""The base class of phases: hooks that the training loop calls in a range of epochs.

The training loop calls a phase at its borders and in every step between them, and names none. In
each epoch the phases that end there do so before others begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from kd_offline.schemas.layers import LayerWidths

if TYPE_CHECKING:
    from kd_offline.distillation.train import Training


@dataclass(slots=True)
class Phase:
    """Base of phases; each method here does nothing.

    Attributes
    ----------
    first, end
        The first epoch of the phase, counted from 0, and the first one behind it.
    """

    name: ClassVar[str] = ""
    """Names the random stream of each epoch, so that a training continues to the same bits."""

    saved_as: ClassVar[str] = ""
    """First part of the names of saved tensors."""

    first: int
    end: int

    def progress(self, step: int, per_epoch: int) -> float:
        """Return the share of the phase that is done in a step of the training, 0 to 1."""
        return (step - per_epoch * self.first) / (per_epoch * (self.end - self.first))

    def begin(self, state: Training) -> None:
        """Change how the team computes, or add optimisers, before the first step.

        Also called before the tensors of a state are restored that was saved within the phase.
        """

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the random numbers of the next step."""

    def losses(self, loss: Tensor, progress: float) -> dict[str, Tensor]:
        """Return named numbers of a step for its metric row, and a new ``loss`` where it changes.

        ``progress``: that of :meth:`progress`.
        """
        return {}

    def before_step(self, state: Training, step: int, progress: float) -> None:
        """Change gradients or the trained parameters, after the gradients of a step are computed.

        ``step``: of the training, counted from 0; ``progress``: as in :meth:`losses`.
        """

    def after_step(self) -> None:
        """Change weights once the optimisers have moved them, before they are averaged."""

    def leave(self, state: Training) -> None:
        """Undo the changes of :meth:`begin` in the team, or replace the team."""

    def skip(self, state: Training, layers: Sequence[LayerWidths] | None) -> None:
        """Give a fresh state the structure after the phase, except for the values of tensors.

        Called before the tensors of a state are restored that was saved behind the phase.
        ``layers``: the widths that the saved team has, where a phase changed them.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are saved with the state of a training, by name."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors that :meth:`tensors` returned."""
