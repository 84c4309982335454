"""``envs``, ``schema`` and ``doctor``: environments, JSON Schemas, and the installation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from kd_offline.cli import completion, options
from kd_offline.cli.failures import resumable
from kd_offline.cli.groups import App
from kd_offline.cli.output import document, emit, say, show, table, terminal

if TYPE_CHECKING:
    from kd_offline.schemas.hardware import HardwareProfile
    from kd_offline.schemas.outputs import DoctorReport


def add(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command(epilog=options.examples("kd-offline envs", "kd-offline envs mpe/simple_spread_v3"))(
        envs
    )
    app.command(
        epilog=options.examples("kd-offline schema", "kd-offline schema run > run.schema.json")
    )(schema)
    group = App(
        cls=_Doctor,
        invoke_without_command=True,
        rich_markup_mode=None,
        epilog=options.examples(
            "kd-offline doctor",
            "kd-offline doctor --json",
            "kd-offline doctor s3://bucket/run",
            "kd-offline doctor calibrate -o mine.toml",
        ),
    )
    group.callback()(doctor)
    group.command(
        epilog=options.examples(
            "kd-offline doctor calibrate -o mine.toml",
            "kd-offline evaluate run/ --device mine.toml",
        )
    )(calibrate)
    group.command(
        epilog=options.examples("kd-offline doctor s3://bucket/run", "kd-offline doctor shards/")
    )(places)
    app.add_typer(group, name="doctor")


class _Doctor(TyperGroup):
    """Takes an address in the place of a command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is named, else the one that takes an address."""
        named = bool(args) and args[0] in self.commands
        return super().resolve_command(ctx, args if named else ["places", *args])


def envs(
    name: Annotated[
        str | None,
        typer.Argument(autocompletion=completion.environments, help="Show this one in detail."),
    ] = None,
    environment_kwargs: options.Environment = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List environments, or show one.

    Shows agents, sides, observation blocks with their index ranges, actions and masks.
    """
    from kd_offline import environments

    if name is None:
        if json:
            document(_names_document())
        else:
            show(*table(list(environments.names().items())))
        return
    world = environments.load(name, **options.assignments(environment_kwargs))
    if json:
        emit(world.spec)
        return
    from kd_offline.students.masks import names_for

    rows = [("agent", "side", "observation", "actions")]
    sides = {agent: side for side, agents in world.spec.sides.items() for agent in agents}
    for agent, width, actions in zip(
        world.spec.agents, world.spec.obs_widths, world.spec.action_names, strict=True
    ):
        blocks = ", ".join(
            f"{block} {'+'.join(f'{a}:{b}' for a, b in ranges)}"
            for block, ranges in world.spec.blocks[agent].items()
        )
        rows.append((agent, sides[agent], f"{width}: {blocks}", " ".join(actions)))
    show(*table(rows), "")
    show(f"episodes of at most {world.spec.episode_limit} steps")
    show(f"masks: {', '.join(names_for(world.spec))}")


def _names_document() -> str:
    import json

    from kd_offline import environments

    return json.dumps(environments.names(), indent=2)


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completion.documents, help="Document; omit it to list all names."
        ),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Print the JSON Schema of a document.

    Documents are the files that kd-offline writes and reads, and what --json prints.
    """
    from kd_offline.schemas.publish import MODELS, model, schema_text

    if name is None:
        show(*table([(key, _first_line(model(key))) for key in MODELS]))
    else:
        document(schema_text(name))


def _first_line(model: type) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def doctor(
    ctx: typer.Context,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show versions and missing parts; with an address, unfinished datasets there."""
    if ctx.invoked_subcommand is not None:
        return
    from kd_offline.runs.doctor import examine

    report = examine()
    if json:
        emit(report)
    else:
        _show(report)


def places(
    address: Annotated[str, typer.Argument(help="Folder, or s3://, gs:// or az:// address.")],
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List what was not finished at and below an address, and what to do about it.

    These are datasets, and folders of parts beside an output. The files there are listed once;
    nothing is read, changed or deleted.
    """
    from kd_offline.datasets.metadata.summary import format_bytes
    from kd_offline.datasets.sharing.unfinished import unfinished

    found = unfinished(address)
    if json:
        emit(found)
        return
    for place in found.unfinished:
        show(
            f"{place.address}: {_BEGUN[place.kind][0]}, {place.files:,} files, "
            f"{format_bytes(place.bytes)}, last changed {_age(place.seconds)} ago: "
            f"{_BUSY if place.busy else _BEGUN[place.kind][1]}"
        )
    say(f"{found.datasets:,} datasets are finished, {len(found.unfinished):,} places are not")


_BEGUN = {
    "upload": (
        "being sent or not sent completely",
        "repeat the command that sends it, which goes on; if its source is gone, delete the "
        "folder or send another with --overwrite",
    ),
    "recording": ("an unfinished recording", "continue it with record --resume, or delete it"),
    "files": (
        "a part of a dataset without its manifest",
        "repeat the command that made it, or delete it",
    ),
    "parts": (
        "parts of a recording of several experts",
        "continue it with record --resume, or delete them",
    ),
    "seeds": (
        "seeds of a distillation",
        "continue it with distill --on PLACE --resume, or delete them",
    ),
    "unsent": (
        "a recording for an address that was not sent",
        "repeat the command that made it with --resume, which goes on, or delete it",
    ),
}
_BUSY = "a process works there now, so wait for its end"


def _age(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"


def calibrate(
    output: Annotated[Path, typer.Option("--output", "-o", help="TOML file to write.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the device.  [default: name of the file]")
    ] = None,
    engines: Annotated[
        str, typer.Option(help="Engines: torch, onnx, c, c-ctypes, numpy; several with commas.")
    ] = "torch,onnx,c,c-ctypes,numpy",
    widths: Annotated[
        str, typer.Option(help="Widths of the students to time, three or more.")
    ] = "16,32,64,128,256",
    rounds: Annotated[
        int, typer.Option(help="Number of rounds in which engines and widths take turns.")
    ] = 30,
    steps: Annotated[int, typer.Option(help="Steps that are timed in a turn.")] = 50,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure this machine as a device for --device.

    Overhead and speed of every engine are fitted to students of several widths. Run nothing else on
    the machine meanwhile.
    """
    options.one_thread_each()
    from kd_offline.evaluation.calibrate import calibrate as measure
    from kd_offline.files import check_output, write_output
    from kd_offline.hardware.profiles import toml_text

    check_output(output, overwrite=overwrite)
    with resumable("nothing was written"):
        profile, lacking = measure(
            name or output.stem.lower(),
            engines=engines.split(","),
            widths=options.integers(widths, "--widths"),
            rounds=rounds,
            steps=steps,
            observers=[terminal()],
        )
    write_output(output, toml_text(profile), overwrite=overwrite)
    for engine, reason in lacking.items():
        say(f"{engine}: unavailable: {reason}")
    if json:
        emit(profile)
    else:
        _show_fit(profile)
        show(output)


def _show_fit(profile: HardwareProfile) -> None:
    rows = [("engine", "FLOP/s", "overhead", "largest error of the fit")]
    for engine, parts in profile.engines.items():
        if (speed := parts.effective_flops) is not None:
            start = "0" if parts.overhead is None else f"{1e6 * parts.overhead.value:.2f} us"
            rows.append((engine, f"{speed.value:.3g}", start, f"{100 * (speed.error or 0):.0f} %"))
    say(*table(rows))


def _show(report: DoctorReport) -> None:
    capability = report.cpu_capability or "unknown"
    rows = [
        ("kd-offline", report.kd_offline),
        ("python", f"{report.python}, {report.system}"),
        ("processor", f"{report.processor}, {report.cores} cores, capability {capability}"),
        *report.packages.items(),
    ]
    show(*table(rows), "")
    extras = [
        (e.library, e.version or "absent", "" if e.install is None else e.install)
        for e in report.extras
    ]
    show(*table(extras), "")
    show(f"StarCraft II (smac/<map>): {report.starcraft.detail}")
    show("", f"bundled experts: {', '.join(report.bundled_experts) or 'none'}")
    if missing := [e.library for e in report.extras if e.install is not None]:
        say(f"optional and absent: {', '.join(missing)}")
