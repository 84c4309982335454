"""The methods: each is a set of weights and settings of loss terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kd_offline import recipes
from kd_offline.schemas.recipes import KD_MARL, DistillRecipe


@dataclass(frozen=True, slots=True)
class Method:
    """A named method; every weight and setting can still be changed.

    ``weights`` are those of the loss terms that the method uses. ``settings`` are by dotted path.
    """

    description: str
    weights: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def layer(self) -> dict[str, Any]:
        """Return the settings of a recipe that the method sets."""
        return {"weights": {**dict.fromkeys(KD_MARL, 0.0), **self.weights}, **self.settings}

    def recipe(self) -> DistillRecipe:
        """Return the default recipe of the method."""
        return recipes.build(DistillRecipe, [self.layer()], "the recipe")


METHODS: dict[str, Method] = {
    "kd-marl": Method(
        "KD-MARL, Algorithm 1 with all its terms, in the recommended reading", KD_MARL
    ),
    "kd-marl-eq6": Method(
        "KD-MARL with the objective as Eq. 6 prints it",
        KD_MARL,
        {"objective.form": "eq6", "terms.ce.target": "soft"},
    ),
    "kl": Method(
        "plain KL divergence to the expert's distribution (policy distillation)",
        {"kl": 1.0},
        {"terms.kl.temperature": 1.0},
    ),
    "q": Method(
        "regression of a value-based expert's centred Q-values",
        {"regression": 1.0},
        {"terms.kl.temperature": 1.0, "objective.q_temperature": 1.0},
    ),
    "bc": Method(
        "behaviour cloning of the executed actions", {"ce": 1.0}, {"terms.ce.target": "executed"}
    ),
    "bc-argmax": Method(
        "cloning of the expert's most probable action, the NLL of Rusu et al.",
        {"ce": 1.0},
        {"terms.ce.target": "argmax"},
    ),
    "ctds": Method(
        "regression of the uncentred Q-values of a teacher that sees more (CTDS)",
        {"q_values": 1.0},
        {"objective.q_temperature": 1.0},
    ),
    "ddn-external": Method(
        "external distillation of the Double Distillation Network: L_B + L_Q + L_F",
        {"privileged_embedding": 1.0, "kl": 1.0, "feature": 1.0},
        {
            "terms.privileged_embedding.tap": "s_hat",
            "terms.kl.temperature": 1.0,
            "student.family": "fusion",
            "student.last_action": True,
        },
    ),
    "ptde": Method(
        "prediction of the teacher's embedding of the state, and its policy (PTDE, second stage)",
        {"privileged_embedding": 1.0, "kl": 1.0},
        {
            "terms.privileged_embedding.tap": "z",
            "terms.kl.temperature": 1.0,
            "student.family": "ptde",
            "student.last_action": True,
        },
    ),
    "igm-bc": Method(
        "outputs become the one-hot of the expert's greedy action (IGM-DA, behaviour cloning)",
        {"one_hot": 1.0},
    ),
    "logits": Method(
        "regression of the expert's centred logits (KnowRU)",
        {"logits": 1.0},
        {"objective.q_temperature": 1.0},
    ),
    "tseng": Method(
        "executed actions, KL and angles between mapped embeddings (Tseng et al.)",
        {"ce": 1.0, "kl": 1.0, "angle": 0.1},
        {"terms.ce.target": "executed", "terms.kl.temperature": 1.0},
    ),
    "relation-attention": Method(
        "KL, and attention between students that matches the expert's relations",
        {"kl": 1.0, "relation_attention": 0.1},
        {"terms.kl.temperature": 1.0},
    ),
    "mixer": Method(
        "a value-based expert's Q-values, and its team value through a small mixer",
        {"regression": 1.0, "mixer": 0.1},
        {"terms.kl.temperature": 1.0, "objective.q_temperature": 1.0},
    ),
    "hidden-features": Method(
        "KL, and prediction of the features that the mask hides",
        {"kl": 1.0, "hidden_features": 0.1},
        {"terms.kl.temperature": 1.0},
    ),
    "neighbours": Method(
        "KL from the expert's policy averaged over steps that look alike to the student",
        {"neighbours": 1.0},
    ),
    "multi-teacher": Method(
        "KL from several experts, each in the episodes that it played", {"teachers": 1.0}
    ),
}


def _as_equation_6(weights: Mapping[str, float]) -> Mapping[str, float]:
    """Return weights of ``alpha CE + CE`` and one lambda for structure and roles (Eq. 6)."""
    return {**weights, "kl": 0.0, "ce": weights["kl"] + 1.0, "role": weights["structure"]}


FORMS: dict[str, Callable[[Mapping[str, float]], Mapping[str, float]]] = {
    "alg1": lambda weights: weights,
    "eq6": _as_equation_6,
}
"""From the weights of a recipe to those that terms are added up with, by ``objective.form``."""
