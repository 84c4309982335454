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
from kd_offline.cli.recipe_options import Setting, recipe_options
from kd_offline.distillation.terms import TERMS
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.students.families import FAMILIES

if TYPE_CHECKING:
    from kd_offline.schemas.budget import Allocation
    from kd_offline.schemas.run import RunManifest
    from kd_offline.tracking.base import Observer

_EXAMPLES = options.examples(
    "kd-offline distill dataset.zarr -o run/ --mask limited --hidden 32,16,16",
    "kd-offline distill dataset.zarr -o kl/ --method kl --seeds 5 --epochs 40 --batched",
    "kd-offline distill dataset.zarr -o five/ --seeds 5 --on processes:2",
    "kd-offline distill dataset.zarr -o lh/ --preset lh+a --arch mlp",
    "kd-offline distill dataset.zarr -o run/ --set terms.policy.ratio=joint --dry-run",
    "kd-offline distill qmix.zarr -o run/ --method q --dueling",
    "kd-offline distill dataset.zarr -o run/ --device stm32f4 --max-latency-us 300 "
    "--max-flash-kb 40",
    "kd-offline distill dataset.zarr -o gates/ --max-macs 2000 --allocate gates",
    "kd-offline distill dataset.zarr -o qat/ --qat",
    "kd-offline distill dataset.zarr -o fleet/ --seeds 5 --batched --diverse",
    "kd-offline distill parts.zarr -o run/ --judge-by val",
    "kd-offline distill large.zarr -o run/ --memory-mb 1000",
    "kd-offline distill dataset.zarr -o run/ --recipe recipe.toml --resume",
    "kd-offline distill more.zarr -o further/ --from run/ --epochs 8",
)
# A plug-in may name its term as it likes; one that makes no option is set by its path.
_WEIGHTS = {f"{name}_weight": name for name in TERMS if name.isidentifier()}
_SETTINGS = {
    "mask": Setting("mask", complete=completion.masks),
    "arch": Setting(
        "student.family",
        help=f"Student family: {', '.join(FAMILIES)}",
        complete=completion.families,
    ),
    "depth": Setting(
        "student.depth",
        help="Number of layers before the GRU or the head",
        kind=int,
        default="2",
    ),
    "dueling": Setting("student.dueling"),
    "epochs": Setting("optimisation.epochs"),
    "batch": Setting("optimisation.batch_episodes"),
    "learning_rate": Setting("optimisation.learning_rate"),
    "temperature": Setting(
        "terms.kl.temperature", help="Temperature of the loss term kl", kind=float
    ),
    "q_temperature": Setting("objective.q_temperature", default="0.1; 1 for q"),
    **{
        option: Setting(f"weights.{name}", help=f"Weight of the loss term {name}", kind=float)
        for option, name in _WEIGHTS.items()
    },
    "policy_term": Setting(
        "terms.policy.form", help="Form of the loss term policy: ppo, awr, crr or none"
    ),
    "judge_by": Setting("judge_by", metavar="PART"),
    "memory_mb": Setting("memory_mb"),
    "profile": Setting("budget.profile", "--device", complete=completion.devices),
    "max_latency_us": Setting("budget.max_latency_us"),
    "max_flash_kb": Setting("budget.max_flash_kb"),
    "max_ram_kb": Setting("budget.max_ram_kb"),
    "max_macs": Setting("budget.max_macs"),
    "max_energy_uj": Setting("budget.max_energy_uj"),
    "precision": Setting("budget.precision"),
    "shared_device": Setting("budget.shared_device"),
    "allocate": Setting(
        "budget.allocate",
        help="How widths are chosen within the budget: worth, before training, or gates, learned "
        "in training",
    ),
    "batched": Setting(
        "batched_seeds", help="Compute all seeds at once; results equal up to rounding"
    ),
    "accelerator": Setting("accelerator"),
    "threads": Setting("threads"),
}


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=_EXAMPLES)(recipe_options(DistillRecipe, _SETTINGS)(distill))


_Output = Annotated[Path, typer.Option("--output", "-o", help="Run folder.")]
_Method = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.one_of(*completion.METHODS),
        help=f"{', '.join(completion.METHODS)}.  [default: kd-marl]",
    ),
]
_Preset = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.one_of("lh", "lh+a"),
        help="Preset: lh (mask limited, hidden 32) or lh+a (mask limited, hidden auto).",
    ),
]
_Hidden = Annotated[
    str | None, typer.Option(help="Width of hidden layers: 32, or 32,16,16, or auto.")
]
_Seeds = Annotated[
    str | None, typer.Option(help="Distillation seeds: 5 (the seeds 0 to 4), or 0,1,2.")
]
_Qat = Annotated[
    bool,
    typer.Option(
        "--qat", help="Train the last fifth of the epochs with the weights of an int8 export."
    ),
]

_Diverse = Annotated[
    bool,
    typer.Option(
        "--diverse",
        help="Let each seed learn from its own random half of the episodes, so that the errors of "
        "the seeds differ more.",
    ),
]
_Start = Annotated[
    Path | None,
    typer.Option("--from", help="Run whose students continue to learn, with its recipe."),
]


def distill(
    dataset: options.Dataset,
    output: _Output = Path("run"),
    method: _Method = None,
    preset: _Preset = None,
    *,
    chosen: dict[str, Any],
    hidden: _Hidden = None,
    seeds: _Seeds = None,
    qat: _Qat = False,
    diverse: _Diverse = False,
    start: _Start = None,
    recipe: options.RecipeFile = None,
    settings: options.Settings = None,
    on: options.On = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    track: options.Track = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Distil small students from a dataset.

    Only the dataset is needed: no environment, no expert and no rollout.
    """
    from kd_offline.distillation.recipe import distill_recipe

    made = distill_recipe(
        method=method,
        preset=preset,
        hidden=options.hidden(hidden),
        seeds=options.seeds(seeds),
        qat=qat,
        diverse=diverse,
        start=start,
        file=recipe,
        settings=chosen | options.assignments(settings),
    )
    if dry_run:
        emit(made, nulls=True)
        return
    done = _run(dataset, output, made, on, resume, overwrite, options.observers(track))
    _finish(done, output, json)


def _run(
    dataset: str,
    output: Path,
    recipe: Any,
    on: str | None,
    resume: bool,
    overwrite: bool,
    observers: list[Observer],
) -> RunManifest:
    from kd_offline.distillation.distill import distill as learn
    from kd_offline.runs.folder import RUN

    kept = f"finished seeds and epochs are in {output}: run the same command with --resume"
    begun = output / RUN if on is None else output.with_name(f"{output.name}.seeds")
    with resumable(kept, begun):
        return learn(
            dataset,
            output,
            recipe,
            resume=resume,
            overwrite=overwrite,
            on=on,
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
    from kd_offline.reports.formatting import significant

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
