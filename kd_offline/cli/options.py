"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import kd_offline
from kd_offline.cli import completion
from kd_offline.cli.failures import remember_debug
from kd_offline.cli.output import be_quiet, terminal
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.untrusted_text import without_password

if TYPE_CHECKING:
    from kd_offline.tracking.base import Observer

_HINT = "or give the path of a .toml file"


def recipes_folder() -> Path:
    """Return the folder of the recipes, in the package or in the repository that it runs in."""
    package = Path(kd_offline.__file__).parent
    installed = package / "cli" / "recipes"
    return installed if installed.is_dir() else package.parent / "cli" / "recipes"


def shipped_recipes(command: str) -> dict[str, Path]:
    """Return the recipes for ``command``, by name."""
    kinds = {"train": ("train", "bundled"), "record": ("record",)}.get(command, ("distill",))
    found = (file for kind in kinds for file in sorted((recipes_folder() / kind).glob("*.toml")))
    return {file.stem: file for file in found}


def find_recipe(ctx: typer.Context, value: str | None) -> Path | None:
    """Return the file of a recipe that is given by its path or its name.

    Raises
    ------
    UnknownNameError
        It is neither: no file, and no recipe of the command has this name.
    """
    if value is None:
        return None
    path = Path(value)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    known = shipped_recipes(ctx.info_name or "")
    if value not in known:
        raise UnknownNameError(what="recipe", got=value, allowed=known, hint=_HINT)
    return known[value]


def complete_recipe(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a recipe."""
    return [name for name in shipped_recipes(ctx.info_name or "") if name.startswith(incomplete)]


def at_least(least: int) -> Callable[[typer.CallbackParam, int | None], int | None]:
    """Return a check that a number is not below ``least``."""

    def check(param: typer.CallbackParam, value: int | None) -> int | None:
        if value is not None and value < least:
            msg = f"--{param.name} {value} is too small: give {least} or more"
            raise UsageError(msg)
        return value

    return check


def silence(value: bool) -> bool:
    """Keep ``--quiet`` where everything that prints finds it."""
    if value:
        be_quiet()
    return value


def hide_password(value: str | None) -> str | None:
    """Take the password of an address out of the command line that trackers keep."""
    if value is not None:
        shown = without_password(value)
        sys.argv[1:] = [word.replace(value, shown) for word in sys.argv[1:]]
    return value


Dataset = Annotated[
    str, typer.Argument(help="Expert buffer: dataset.zarr, dataset.zarr.zip, s3://..., https://...")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=silence,
        is_eager=True,
        help="Print nothing but errors and documents.",
    ),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", help="Show the traceback of an error.", callback=remember_debug, is_eager=True
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        callback=at_least(1),
        help="Number of threads; changes results in the last bits.  [default: 2]",
    ),
]
Accelerator = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.one_of("cpu", "cuda", "mps", "auto"),
        help="Device for networks: cpu, cuda, mps, or auto: a GPU if there is one.  [default: cpu]",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted command.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


OPERATIONS = {
    "audit": "kd_offline.robustness.audit",
    "distill": "kd_offline.distillation.distill",
    "evaluate": "kd_offline.evaluation.evaluate",
    "record": "kd_offline.recording.record",
    "sweep": "kd_offline.sweeps.sweep",
    "train": "kd_offline.experts.train_all",
}
"""Command -> the module of its tasks, which its workers load."""


def begin_workers(ctx: typer.Context, value: str | None) -> str | None:
    """Let processes load what they need while this one does."""
    if value is not None and value.startswith("processes") and not ctx.resilient_parsing:
        from kd_offline.execution.processes import OPTIMISING, prepare

        name = str(ctx.command.name)
        optimises = name in ("train", "distill", "sweep")
        prepare([OPERATIONS[name], *([OPTIMISING] if optimises else [])])
    return value


On = Annotated[
    str | None,
    typer.Option(
        callback=begin_workers,
        autocompletion=completion.executors,
        help="Run parts in parallel: processes:4, ray or ray://HOST:PORT.",
        metavar="PLACE",
    ),
]
Environment = Annotated[
    list[str] | None,
    typer.Option(
        "--env", metavar="NAME=VALUE", help="Setting of the environment, such as n_agents=4."
    ),
]
Seed = Annotated[int, typer.Option(callback=at_least(0), help="Seed.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any setting of the recipe by its path; repeatable."
    ),
]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        callback=find_recipe,
        autocompletion=complete_recipe,
        help="Recipe by name or .toml file; options take precedence.",
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="Run folder.")]
RunDataset = Annotated[
    str | None, typer.Option(help="The run's dataset, if it was moved or is on a server.")
]
RecordedExpert = Annotated[
    str | None, typer.Option(help="Path or name of the recorded expert.  [default: as recorded]")
]
ExportEngine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="Of the export: numpy, torch, onnx or c, which compiles and runs the code that is "
        "in it, so it is for exports that you trust.  [default: the first it can but c]",
    ),
]
ExpertRecipe = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with the input recipe of an expert of another library.  [default: an "
        "expert.toml beside it, and settings detected from its files]"
    ),
]
RecordedEnvironment = Annotated[
    str | None,
    typer.Option(
        "--environment",
        metavar="NAME",
        help="Allow this environment, which a file names; it has to be the recorded one.  "
        "[default: only kd-offline's, PettingZoo's and those of plug-ins]",
    ),
]
RecordedOpponents = Annotated[
    list[str] | None,
    typer.Option(
        "--opponents",
        metavar="NAME",
        help="Allow this expert, which an expert's file names as its opponents; repeatable.  "
        "[default: only bundled ones]",
    ),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        autocompletion=completion.devices,
        help="Predict latency and energy for this device, by name or .toml file; repeatable.",
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME[:TARGET]",
        autocompletion=completion.trackers,
        help="Send metrics to a tracker: tensorboard[:FOLDER], wandb[:PROJECT], mlflow[:STORE], "
        "jsonl[:FILE] or a plug-in's; repeatable.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")]


def assignments(texts: list[str] | None) -> dict[str, Any]:
    """Read ``NAME=VALUE`` options."""
    from kd_offline.recipes import assignment

    return dict(assignment(text) for text in texts or [])


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def integers(text: str, option: str) -> tuple[int, ...]:
    """Read ``0,1,2``; a trailing comma is allowed.

    Raises
    ------
    UsageError
        Something between the commas is not a whole number.
    """
    try:
        return tuple(int(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        msg = f"{option} {text!r} is not a list of whole numbers: write it as 32,16,16"
        raise UsageError(msg) from None


def seeds(text: str | None) -> int | tuple[int, ...] | None:
    """Read ``5`` (the seeds 0 to 4) or ``0,1,2`` or ``7,`` (only the seed 7)."""
    if text is None:
        return None
    numbers = integers(text, "--seeds")
    if "," in text:
        return numbers
    if numbers[0] < 1:
        msg = f"--seeds {text} asks for no team: give 1 or more, or the seeds themselves as 0,1,2"
        raise UsageError(msg)
    return numbers[0]


def hidden(text: str | None) -> int | tuple[int, ...] | str | None:
    """Read ``32``, ``32,16,16`` or ``auto``."""
    if text is None or text == "auto":
        return text
    numbers = integers(text, "--hidden")
    return numbers if "," in text else numbers[0]


def observers(track: list[str] | None) -> list[Observer]:
    """Return the observers of the command: the terminal and the requested trackers."""
    if not track:
        return [terminal()]
    from kd_offline.tracking import tracker

    return [terminal(), *map(tracker, track)]


def one_thread_each() -> None:
    """Let libraries of linear algebra, which are loaded later than this, use one thread."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def examples(*lines: str) -> str:
    """Return an epilog that shows ``lines`` unwrapped."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
