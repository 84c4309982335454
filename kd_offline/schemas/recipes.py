"""Recipes of distillations: all settings that decide their result."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from kd_offline.errors import UnknownNameError
from kd_offline.schemas.bounds import (
    WIDEST,
    Accelerator,
    Batch,
    Epochs,
    Seeds,
    Threads,
)
from kd_offline.schemas.budget import Budget
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.layers import Block

KD_MARL: dict[str, float] = {
    "kl": 1.0,
    "ce": 0.5,
    "structure": 0.1,
    "role": 0.1,
    "policy": 0.1,
    "entropy": 0.0,
    "regression": 0.0,
}
"""Weights of the loss terms in KD-MARL's objective (Algorithm 1, line 14), by name."""


class Objective(Strict):
    """How loss terms add up, which decisions count, and how Q-values become a policy.

    The defaults, like those of every term's own settings, are the recommended resolution of the
    paper's ambiguities; docs/guide/losses.md explains each of them.
    """

    form: Literal["alg1", "eq6"] = Field(
        default="alg1",
        description="Algorithm 1, or the misprinted Eq. 6 (alpha CE + CE, one lambda)",
    )
    agents: Literal["mean", "sum"] = Field(
        default="mean", description="how the losses of the agents that are alive are combined"
    )
    drop_forced: bool = Field(
        default=True, description="leave out decisions with only one legal action"
    )
    q_temperature: float = Field(
        default=0.1,
        gt=0,
        description="temperature that turns scaled Q-values into the expert's logits",
    )
    q_scale: Literal["dataset", "state", "none"] = Field(
        default="dataset",
        description="divisor of centred Q-values: their standard deviation between legal actions, "
        "over the dataset or in each state, or none",
    )


FORMER_SWITCHES: dict[str, str] = {
    **{name: f"objective.{name}" for name in Objective.model_fields},
    "temperature": "terms.kl.temperature",
    "scale_by_temperature": "terms.kl.scale_by_temperature",
    "ce_target": "terms.ce.target",
    "policy_term": "terms.policy.form",
    "ratio": "terms.policy.ratio",
    "clip": "terms.policy.clip",
    "policy_temperature": "terms.policy.temperature",
    "policy_warmup": "terms.policy.warmup",
    "awr_temperature": "terms.policy.awr_temperature",
    "gamma": "terms.policy.gamma",
    "gae_lambda": "terms.policy.gae_lambda",
    "gae_horizon": "terms.policy.gae_horizon",
    "bootstrap_on_truncation": "terms.policy.bootstrap_on_truncation",
    "relation": "terms.structure.relation",
    "relation_width": "terms.structure.relation_width",
    "pairs": "terms.structure.pairs",
    "centre": "terms.structure.centre",
    "roles": "terms.role.roles",
    "role_temperature": "terms.role.temperature",
    "role_init": "terms.role.init",
    "learn_role_projection": "terms.role.learn_projection",
    "regression_loss": "terms.regression.loss",
}
"""Where each setting of the table ``switches``, which recipes once had, is today."""


def with_present_names(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe, or a part of one, without names that only former versions had.

    These are the table ``switches``, and ``student.kind`` for ``student.family``.

    A setting that also stands at its present place keeps that value.

    Raises
    ------
    UnknownNameError
        There was never such a switch.
    """
    present = deepcopy(dict(recipe))
    if isinstance(present.get("student"), Mapping):
        present["student"] = with_family(present["student"])
    if not isinstance(present.get("switches"), Mapping):
        return present
    for name, value in present.pop("switches").items():
        if name not in FORMER_SWITCHES:
            what = "setting of the recipe, switches"
            raise UnknownNameError(what=what, got=str(name), allowed=FORMER_SWITCHES)
        *tables, field = FORMER_SWITCHES[name].split(".")
        table = present
        for each in tables:
            table = table.setdefault(each, {})
            if not isinstance(table, dict):
                return present  # whoever checks its values refuses that
        table.setdefault(field, value)
    return present


class StudentArchitecture(Strict):
    """Networks of the students; one per agent, each of its own width.

    These settings are those of all student families. Each has a subclass that adds its own, see
    :attr:`kd_offline.students.families.base.StudentFamily.settings`; here they are kept as they
    were given, until :func:`kd_offline.students.families.settings_of` checks them.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    family: str = Field(default="gru", description="name of the student family")
    hidden: tuple[int, ...] | int | Literal["auto"] = Field(
        default=32,
        description="one width for all agents, one for each, or auto: by the number of visible "
        "features",
    )
    aligner: Literal["identity", "linear"] = Field(
        default="identity",
        description="g_i of Algorithm 1; a linear aligner is folded into the first layer at export",
    )
    motion: bool | None = Field(
        default=None,
        description="append the change of each visible feature since the last step; None: if the "
        "mask hides something",
    )
    last_action: bool | None = Field(
        default=None, description="append the agent's own last action; None: as motion"
    )
    mask_as_input: bool | None = Field(
        default=None,
        description="append the bits of the mask; None: if the mask is drawn for each episode",
    )
    dueling: bool = Field(
        default=False,
        description="also learn the value of the state, with a head that exists in training only; "
        "needs weights.regression",
    )

    @model_validator(mode="before")
    @classmethod
    def _reads_the_former_name(cls, given: Any) -> Any:
        return with_family(given) if isinstance(given, Mapping) else given

    @field_validator("hidden")
    @classmethod
    def _widths_are_no_wider_than_any(cls, given: Any) -> Any:
        if given != "auto" and max((given,) if isinstance(given, int) else given) > WIDEST:
            msg = f"must be at most {WIDEST:,} units wide"
            raise ValueError(msg)
        return given


def with_family(student: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of students in which the family is called so, and no longer their kind."""
    present = dict(student)
    if "kind" in present:
        former = present.pop("kind")
        present.setdefault("family", former)
    return present


class Optimisation(Strict):
    """Schedule of the one training loop."""

    epochs: Epochs = Field(default=24, description="passes over the data")
    batch_episodes: Batch = Field(default=128, description="episodes in a batch")
    optimiser: Literal["muon", "adamw"] = Field(
        default="muon",
        description="muon: Muon for the matrices between hidden layers and AdamW for all other "
        "parameters; adamw: AdamW for all parameters",
    )
    learning_rate: float = Field(default=0.01, gt=0, description="largest learning rate of AdamW")
    muon_learning_rate: float = Field(
        default=0.02, gt=0, description="largest learning rate of Muon"
    )
    final_share: float = Field(
        default=1e-3,
        ge=0,
        le=1,
        description="learning rates at the end of the cosine decay, as a share of the largest",
    )
    warmup: float = Field(
        default=0.02, ge=0, le=1, description="share of the steps with linear warm-up"
    )
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="norm at which gradients are clipped"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of both optimisers")
    ema: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the exponential moving average of weights"
    )
    evaluate_every: Epochs = Field(default=1, description="epochs between held-out evaluations")
    quantise_from: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of the epochs after which the students compute with int8 weights and "
        "the best epoch is chosen by them; None: never",
    )

    @property
    def first_rounded(self) -> int | None:
        """The epoch, counted from 0, in which weights are rounded first; at least one is."""
        if self.quantise_from is None:
            return None
        return min(round(self.quantise_from * self.epochs), self.epochs - 1)


class UnitGates(Strict):
    """Learned gates on hidden units, and the penalty on their expected cost.

    They are used where ``budget.allocate`` is ``gates``; the penalty is
    ``weight * sum_k relu(C_k / B_k - 1)^2`` over the limits of the budget.
    """

    weight: float = Field(default=0.1, ge=0, description="largest weight of the penalty")
    ramp: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the gated epochs over which the weight rises to its largest value",
    )
    settle_from: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="share of the epochs after which the units are chosen and the others removed",
    )
    learning_rate: float = Field(
        default=0.05, gt=0, description="learning rate of the gates, by Adam"
    )
    start: float = Field(
        default=0.95, gt=0, lt=1, description="initial probability that a unit is kept"
    )


class Sparsity(Strict):
    """Sparse matrices whose zeros change during training (RigL, Evci et al., 2020).

    Every few steps the weights with the smallest magnitude are dropped, and equally many are added
    where the gradient is largest.
    """

    target: float = Field(
        gt=0, lt=1, description="share of the weights of each agent's matrices that are zero"
    )
    block: Block = Field(
        default=1,
        description="number of rows of one column whose weights are zero together",
    )
    densities: Literal["erk", "uniform"] = Field(
        default="erk",
        description="density of the matrices: erk: by rows and columns (Erdos-Renyi-Kernel); "
        "uniform: the same for all",
    )
    exchange: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="share of the weights in the first exchange; it falls by a cosine",
    )
    every: int = Field(default=20, gt=0, description="steps between two exchanges")
    until: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="share of the training in which weights are exchanged",
    )


class StudentStart(Strict):
    """Students of a run whose weights a distillation starts from."""

    run: str = Field(description="folder of the run")
    digests: dict[str, str] = Field(
        description="sha256 of the weights of each of its seeds, as run.json states it"
    )


class DistillRecipe(Strict):
    """Everything that decides what ``kd-offline distill`` produces from a dataset."""

    method: str = Field(default="kd-marl", description="named set of loss terms and weights")
    mask: str = Field(
        default="full", description="stored mask that says which features students see"
    )
    student: StudentArchitecture = StudentArchitecture()
    start: StudentStart | None = Field(
        default=None, description="students whose weights are the initial ones; None: random"
    )
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: dict(KD_MARL),
        description="weights of the loss terms, by name; terms that are left out keep KD-MARL's",
    )
    terms: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="settings of the loss terms, by name"
    )
    objective: Objective = Objective()
    optimisation: Optimisation = Optimisation()
    budget: Budget | None = Field(
        default=None,
        description="limits of the cost of a decision; student.hidden is then the largest width",
    )
    gates: UnitGates = UnitGates()
    sparsity: Sparsity | None = Field(
        default=None, description="sparse matrices of the students; None: full ones"
    )
    judge_by: str | None = Field(
        default=None,
        description="part of the dataset by which the best epoch is chosen; not train; None: "
        "heldout, or nothing if the dataset holds out no episode",
    )
    seeds: Seeds = Field(
        default=(0,), min_length=1, description="distillation seeds, one team for each"
    )
    diverse: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of the training episodes that each seed draws at random and learns "
        "from, so that the errors of the seeds differ more; None: all of them",
    )
    batched_seeds: bool = Field(
        default=False,
        description="compute the teams of all seeds at once: faster for small teams, on a "
        "processor slower for large ones; results equal those of each seed up to rounding",
    )
    accelerator: Accelerator = Field(
        default="cpu",
        description="device that networks are trained on; auto: a GPU if there is one",
    )
    threads: Threads = Field(
        default=2, description="agents that are trained in parallel; does not change the results"
    )
    memory_mb: float | None = Field(
        default=None,
        gt=0,
        description="memory limit for decoded data and targets, in 10**6 bytes; if they need more "
        "they are streamed, in an order that depends on the limit; None: no limit",
    )

    @property
    def first_settled(self) -> int | None:
        """The epoch, counted from 0, before which units are chosen; None: no unit has a gate."""
        if self.budget is None or self.budget.allocate != "gates":
            return None
        epochs = self.optimisation.epochs
        return min(max(round(self.gates.settle_from * epochs), 1), epochs - 1)

    @model_validator(mode="before")
    @classmethod
    def _reads_recipes_of_former_versions(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        recipe = with_present_names(given)
        weights, terms = recipe.get("weights", {}), recipe.get("terms", {})
        if not isinstance(weights, Mapping) or not isinstance(terms, Mapping):
            return recipe
        recipe["weights"] = {**KD_MARL, **weights}
        policy = terms.get("policy")
        if isinstance(policy, dict) and policy.get("form") == "none":
            del policy["form"]  # was a way to say that the term has no weight
            recipe["weights"]["policy"] = 0.0
        return recipe

    @model_validator(mode="after")
    def _gates_have_units_and_time(self) -> DistillRecipe:
        settled, rounded = self.first_settled, self.optimisation.first_rounded
        if settled is None:
            return self
        msg = ""
        if settled < 1:
            msg = "unit gates need optimisation.epochs of 2 or more, to learn and to go on without"
        elif rounded is not None and rounded < settled:
            msg = (
                "weights can be rounded only after the units are chosen: set "
                "optimisation.quantise_from to no less than gates.settle_from"
            )
        if msg:
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _seeds_at_once_have_no_phases(self) -> DistillRecipe:
        phased = {
            "unit gates": self.first_settled is not None,
            "int8 weights": self.optimisation.first_rounded is not None,
            "sparse matrices": self.sparsity is not None,
        }
        if self.batched_seeds and (asked := [name for name, is_on in phased.items() if is_on]):
            msg = (
                f"{asked[0]} are trained seed by seed: set batched_seeds to false, or train "
                "without them"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _zeros_stay_zero_and_are_planned_for(self) -> DistillRecipe:
        if self.sparsity is None:
            return self
        msg = ""
        if self.student.aligner == "linear":
            msg = (
                "a linear aligner becomes part of the first matrix and would fill its zeros: set "
                "student.aligner to identity, or leave out sparsity"
            )
        elif self.budget is not None:
            msg = (
                "a budget is met by full matrices, whose time and energy are known: leave out "
                "sparsity, or leave out budget and set sparsity.target"
            )
        if msg:
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _students_that_go_on_keep_their_units(self) -> DistillRecipe:
        if self.start is not None and self.first_settled is not None:
            msg = (
                "unit gates make other networks of the students that start names: allocate the "
                "budget by worth, or start from none"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _dueling_learns_values(self) -> DistillRecipe:
        if self.student.dueling and not self.weights.get("regression"):
            msg = (
                "dueling students need the regression of Q-values: choose method q, or set "
                "weights.regression"
            )
            raise ValueError(msg)
        return self
