"""Methods as data: each is a set of loss weights and switches, nothing more."""

from __future__ import annotations

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


def needed_arrays(recipe: DistillRecipe) -> tuple[str, ...]:
    """Return the arrays that a recipe reads, beyond none that its loss terms do not use."""
    weights, switches = recipe.weights, recipe.switches
    names = ["steps/obs", "steps/available_actions", "steps/alive"]
    if weights.kl or (weights.ce and switches.ce_target != "executed"):
        names.append("steps/logits")
    if weights.ce and switches.ce_target == "executed":
        names.append("steps/actions")
    if weights.policy and switches.policy_term != "none":
        names += ["steps/actions", "steps/value", "final/value", "steps/reward"]
        names += ["steps/terminated", "steps/truncated"]
        names += ["steps/behaviour_logprob"] if switches.policy_term == "ppo" else []
    if weights.structure or weights.role:
        names.append("steps/embedding")
    return tuple(dict.fromkeys(names))


def check_arrays(recipe: DistillRecipe, present: list[str]) -> None:
    """Raise ``MissingArrayError`` where a dataset lacks what a recipe reads."""
    missing = [name for name in needed_arrays(recipe) if name not in present]
    if missing:
        able = [
            name
            for name, m in METHODS.items()
            if set(needed_arrays(DistillRecipe(weights=m.weights, switches=m.switches)))
            <= set(present)
        ]
        advice = f"choose --method {' or '.join(able)}" if able else "record it with an expert"
        msg = f"method {recipe.method!r} needs {', '.join(missing)}, not in this dataset: {advice}"
        raise MissingArrayError(msg)
