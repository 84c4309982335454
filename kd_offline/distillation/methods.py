"""Methods as data: each is a set of loss weights and switches, nothing more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kd_offline.errors import MissingArrayError
from kd_offline.schemas.recipes import DistillRecipe, LossSwitches, LossWeights

_NOTHING = dict.fromkeys(LossWeights.model_fields, 0.0)


@dataclass(frozen=True, slots=True)
class Method:
    """A named starting point; every weight and switch can still be changed."""

    description: str
    weights: LossWeights
    switches: LossSwitches


METHODS: dict[str, Method] = {
    "kd-marl": Method(
        "KD-MARL, Algorithm 1 in full, in the recommended reading",
        LossWeights(),
        LossSwitches(),
    ),
    "kd-marl-eq6": Method(
        "KD-MARL with the objective as Eq. 6 prints it",
        LossWeights(),
        LossSwitches(form="eq6", ce_target="soft"),
    ),
    "kl": Method(
        "plain KL divergence to the expert's distribution (policy distillation)",
        LossWeights(**_NOTHING | {"kl": 1.0}),
        LossSwitches(temperature=1.0, policy_term="none"),
    ),
    "q": Method(
        "regression of a value-based expert's centred Q-values (CTDS)",
        LossWeights(**_NOTHING | {"regression": 1.0}),
        LossSwitches(temperature=1.0, policy_term="none", q_temperature=1.0),
    ),
    "bc": Method(
        "behaviour cloning of the executed actions",
        LossWeights(**_NOTHING | {"ce": 1.0}),
        LossSwitches(ce_target="executed", policy_term="none"),
    ),
    "bc-argmax": Method(
        "cloning of the expert's most probable action",
        LossWeights(**_NOTHING | {"ce": 1.0}),
        LossSwitches(ce_target="argmax", policy_term="none"),
    ),
}


def speaks_in_values(present: Collection[str]) -> bool:
    """Tell whether the expert of a dataset with these arrays is known by its Q-values alone."""
    return "steps/q_values" in present and "steps/logits" not in present


def needed_arrays(recipe: DistillRecipe, present: Collection[str]) -> tuple[str, ...]:
    """Return the arrays that a recipe reads, beyond none that its loss terms do not use.

    ``present``: the arrays of the dataset; of a value-based expert Q-values stand for logits.
    """
    weights, switches = recipe.weights, recipe.switches
    names = ["steps/obs", "steps/available_actions", "steps/alive"]
    if weights.kl or (weights.ce and switches.ce_target != "executed"):
        names.append("steps/q_values" if speaks_in_values(present) else "steps/logits")
    if weights.regression:
        names.append("steps/q_values")
    if weights.ce and switches.ce_target == "executed":
        names.append("steps/actions")
    if weights.policy and switches.policy_term != "none":
        names += ["steps/actions", "steps/value", "final/value", "steps/reward"]
        names += ["steps/terminated", "steps/truncated"]
        names += ["steps/behaviour_logprob"] if switches.policy_term == "ppo" else []
        names += ["steps/action_source"] if "steps/action_source" in present else []
    if weights.structure or weights.role:
        names.append("steps/embedding")
    return tuple(dict.fromkeys(names))


def check_arrays(recipe: DistillRecipe, present: Collection[str]) -> None:
    """Raise ``MissingArrayError`` where a dataset lacks what a recipe reads."""
    missing = _missing(recipe, present)
    if missing:
        able = [
            name
            for name, m in METHODS.items()
            if not _missing(DistillRecipe(weights=m.weights, switches=m.switches), present)
        ]
        advice = f"choose --method {' or '.join(able)}" if able else "record it with an expert"
        free = recipe.switches.model_copy(update={"policy_term": "none"})
        if not _missing(recipe.model_copy(update={"switches": free}), present):
            advice = f"add --policy-term none, or {advice}"
        msg = f"method {recipe.method!r} needs {', '.join(missing)}, not in this dataset: {advice}"
        raise MissingArrayError(msg)


def _missing(recipe: DistillRecipe, present: Collection[str]) -> list[str]:
    return [name for name in needed_arrays(recipe, present) if name not in present]
