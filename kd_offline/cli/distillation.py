"""``distill``: stage 2, students from a dataset alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd_offline.cli import completion, options
from kd_offline.cli.failures import resumable
from kd_offline.cli.output import emit, say, show

if TYPE_CHECKING:
    from kd_offline.schemas.budget import Allocation
    from kd_offline.schemas.run import RunManifest
    from kd_offline.tracking.base import Observer

_EXAMPLES = options.examples(
    "kd-offline distill dataset.zarr -o run/ --mask limited --hidden 32,16,16",
    "kd-offline distill dataset.zarr -o kl/ --method kl --seeds 5 --epochs 40",
    "kd-offline distill dataset.zarr -o lh/ --preset lh+a --arch mlp",
    "kd-offline distill dataset.zarr -o run/ --set terms.policy.ratio=joint --dry-run",
    "kd-offline distill qmix.zarr -o run/ --method q --dueling",
    "kd-offline distill dataset.zarr -o run/ --device stm32f4 --max-latency-us 300 "
    "--max-flash-kb 40",
    "kd-offline distill dataset.zarr -o gates/ --max-macs 2000 --allocate gates",
    "kd-offline distill dataset.zarr -o qat/ --qat",
    "kd-offline distill parts.zarr -o run/ --judge-by val",
    "kd-offline distill large.zarr -o run/ --memory-mb 1000",
    "kd-offline distill dataset.zarr -o run/ --recipe recipe.toml --resume",
)
_PLACES = {
    "kl_weight": "weights.kl",
    "ce_weight": "weights.ce",
    "structure_weight": "weights.structure",
    "role_weight": "weights.role",
    "policy_weight": "weights.policy",
    "entropy_weight": "weights.entropy",
    "regression_weight": "weights.regression",
    "policy_term": "terms.policy.form",
    "temperature": "terms.kl.temperature",
    "q_temperature": "objective.q_temperature",
    "arch": "student.kind",
    "depth": "student.depth",
    "dueling": "student.dueling",
    "epochs": "optimisation.epochs",
    "batch": "optimisation.batch_episodes",
    "learning_rate": "optimisation.learning_rate",
    "judge_by": "judge_by",
    "threads": "threads",
    "memory_mb": "memory_mb",
    "profile": "budget.profile",
    "max_latency_us": "budget.max_latency_us",
    "max_flash_kb": "budget.max_flash_kb",
    "max_ram_kb": "budget.max_ram_kb",
    "max_macs": "budget.max_macs",
    "max_energy_uj": "budget.max_energy_uj",
    "precision": "budget.precision",
    "shared_device": "budget.shared_device",
    "allocate": "budget.allocate",
}

_Threads = Annotated[
    int | None,
    typer.Option(
        callback=options.at_least(1),
        help="Agents trained side by side; changes no number.  [default: 2]",
    ),
]


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(distill)


_Output = Annotated[Path, typer.Option("--output", "-o", help="Run folder.")]
_Method = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.one_of(*completion.METHODS),
        help="kd-marl, kd-marl-eq6, kl, q, bc or bc-argmax.  [default: kd-marl]",
    ),
]
_Preset = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.one_of("lh", "lh+a"),
        help="lh: mask limited, hidden 32; lh+a: hidden auto.",
    ),
]
_Mask = Annotated[
    str | None,
    typer.Option(autocompletion=completion.masks, help="Stored mask.  [default: full]"),
]
_Hidden = Annotated[str | None, typer.Option(help="32, or 32,16,16, or auto.")]
_Arch = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.one_of("gru", "mlp"), help="gru or mlp.  [default: gru]"
    ),
]
_Depth = Annotated[int | None, typer.Option(help="Trunk layers.  [default: 2]")]
_Seeds = Annotated[str | None, typer.Option(help="5 (the seeds 0 to 4), or 0,1,2.")]
_Epochs = Annotated[int | None, typer.Option(help="Passes over the data.")]
_Batch = Annotated[int | None, typer.Option(help="Episodes in a batch.")]
_LearningRate = Annotated[float | None, typer.Option(help="At its highest.")]
_Temperature = Annotated[float | None, typer.Option(help="Of the KL term.")]
_KlWeight = Annotated[float | None, typer.Option(help="KL to the expert.")]
_CeWeight = Annotated[float | None, typer.Option(help="Hard cross entropy.")]
_StructureWeight = Annotated[float | None, typer.Option(help="Structure relation.")]
_RoleWeight = Annotated[float | None, typer.Option(help="Role alignment.")]
_PolicyWeight = Annotated[float | None, typer.Option(help="Policy-gradient term.")]
_EntropyWeight = Annotated[float | None, typer.Option(help="Entropy.")]
_RegressionWeight = Annotated[float | None, typer.Option(help="Regression of Q-values.")]
_QTemperature = Annotated[
    float | None, typer.Option(help="Of scaled Q-values.  [default: 0.1; 1 for q]")
]
_Dueling = Annotated[
    bool | None,
    typer.Option("--dueling", help="Learn the state's value too, in training only."),
]
_MemoryMb = Annotated[
    float | None, typer.Option(help="Stream what needs more; see the guide.  [default: no limit]")
]
_Profile = Annotated[
    str | None,
    typer.Option(
        "--device",
        autocompletion=completion.devices,
        help="Device that the students have to fit, by name or .toml file.",
    ),
]
_MaxLatencyUs = Annotated[float | None, typer.Option(help="Of an agent's step, in C on it.")]
_MaxFlashKb = Annotated[float | None, typer.Option(help="Weights and code; 1024 bytes.")]
_MaxRamKb = Annotated[float | None, typer.Option(help="Buffers and memory.")]
_MaxMacs = Annotated[int | None, typer.Option(help="Multiply-accumulates of a step.")]
_MaxEnergyUj = Annotated[float | None, typer.Option(help="Of a step.")]
_Precision = Annotated[
    str | None, typer.Option(help="fp32 or int8, that the budget is for.  [default: fp32]")
]
_SharedDevice = Annotated[
    bool | None,
    typer.Option("--shared-device", help="One device runs the team, so that costs add up."),
]
_Allocate = Annotated[
    str | None,
    typer.Option(
        help="How widths meet the budget: worth, before training, or gates, learned while training."
        "  [default: worth]"
    ),
]
_Qat = Annotated[
    bool,
    typer.Option("--qat", help="Train the last fifth with the weights of an int8 export."),
]
_JudgeBy = Annotated[
    str | None,
    typer.Option(
        help="Part to judge students by, never trained on.  [default: heldout, if there is one]",
        metavar="PART",
    ),
]
_PolicyTerm = Annotated[str | None, typer.Option(help="ppo, awr, crr or none.")]


def distill(
    ctx: typer.Context,
    dataset: options.Dataset,
    output: _Output = Path("run"),
    method: _Method = None,
    preset: _Preset = None,
    mask: _Mask = None,
    hidden: _Hidden = None,
    arch: _Arch = None,
    depth: _Depth = None,
    dueling: _Dueling = None,
    seeds: _Seeds = None,
    epochs: _Epochs = None,
    batch: _Batch = None,
    learning_rate: _LearningRate = None,
    temperature: _Temperature = None,
    q_temperature: _QTemperature = None,
    kl_weight: _KlWeight = None,
    ce_weight: _CeWeight = None,
    structure_weight: _StructureWeight = None,
    role_weight: _RoleWeight = None,
    policy_weight: _PolicyWeight = None,
    entropy_weight: _EntropyWeight = None,
    regression_weight: _RegressionWeight = None,
    policy_term: _PolicyTerm = None,
    judge_by: _JudgeBy = None,
    memory_mb: _MemoryMb = None,
    profile: _Profile = None,
    max_latency_us: _MaxLatencyUs = None,
    max_flash_kb: _MaxFlashKb = None,
    max_ram_kb: _MaxRamKb = None,
    max_macs: _MaxMacs = None,
    max_energy_uj: _MaxEnergyUj = None,
    precision: _Precision = None,
    qat: _Qat = False,
    shared_device: _SharedDevice = None,
    allocate: _Allocate = None,
    recipe: options.RecipeFile = None,
    settings: options.Settings = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    threads: _Threads = None,
    track: options.Track = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Distil small students from a dataset.

    Nothing but the file is used: no environment, no expert, no rollout.
    """
    from kd_offline.distillation.recipe import distill_recipe

    flags = {p: ctx.params[n] for n, p in _PLACES.items() if ctx.params[n] is not None}
    chosen = distill_recipe(
        method=method,
        preset=preset,
        mask=mask,
        hidden=options.hidden(hidden),
        seeds=options.seeds(seeds),
        qat=qat,
        file=recipe,
        settings=flags | options.assignments(settings),
    )
    if dry_run:
        emit(chosen, nulls=True)
        return
    done = _run(dataset, output, chosen, resume, overwrite, options.observers(track))
    _finish(done, output, json)


def _run(
    dataset: str,
    output: Path,
    recipe: Any,
    resume: bool,
    overwrite: bool,
    observers: list[Observer],
) -> RunManifest:
    from kd_offline.distillation.distill import distill as learn
    from kd_offline.runs.folder import RUN

    kept = f"finished seeds and epochs are in {output}: run the same command with --resume"
    with resumable(kept, output / RUN):
        return learn(
            dataset,
            output,
            recipe,
            resume=resume,
            overwrite=overwrite,
            command=command_line(),
            observers=observers,
        )


def _finish(done: RunManifest, output: Path, json: bool) -> None:
    from kd_offline.runs.judged import judged
    from kd_offline.runs.next_command import code_that_runs, evaluate_command
    from kd_offline.schemas.outputs import DistillOutput

    if json:
        emit(DistillOutput.of(done, str(output)))
        return
    for student in done.students:
        say(f"  {student.agent}: hidden {student.hidden}, {student.parameters:,} parameters")
    if done.allocation is not None:
        _show_budget(done.allocation)
    say(f"  {judged(done)}")
    for result in done.results if done.judged_by else ():
        shown = {name: x for name, x in result.held_out.items() if "." not in name}
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        say(f"  seed {result.seed}: {metrics or 'nobody has a choice of actions there'}")
    say(f"{len(done.results)} teams in {done.timing.seconds:.1f} s")
    say(f"next: {evaluate_command(done, output)}")
    if stated := code_that_runs(done):
        say(f"  {stated}")
    show(output)


def _show_budget(allocation: Allocation) -> None:
    from kd_offline.reports.words import significant

    for agent in allocation.agents:
        found = ", ".join(f"{name} {significant(one.value)}" for name, one in agent.figures.items())
        why = f"layers {agent.layers}" if agent.worth is None else f"worth {agent.worth.total:.3f}"
        say(f"  {agent.agent}: {why}; predicted {found}")
    limits = ", ".join(f"{name} {significant(value)}" for name, value in allocation.limits.items())
    whose = "the team" if allocation.budget.shared_device else "each agent"
    say(f"  within the budget of {whose}: {limits}")


def command_line() -> str:
    """Return the command that runs, as one types it."""
    return shlex.join(["kd-offline", *sys.argv[1:]])
