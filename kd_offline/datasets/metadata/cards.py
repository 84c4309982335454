"""``card``: a Markdown page about a dataset, with the header of the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.commands import command_text
from kd_offline.datasets.format.manifest import final_value_warning
from kd_offline.datasets.format.shards import Shard, shard_of
from kd_offline.datasets.metadata.summary import size_bytes
from kd_offline.datasets.reading.held_out import HELD_OUT
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.statistics import side_returns, spread
from kd_offline.files import check_output, write_output
from kd_offline.schemas.dataset import DatasetManifest, ExpertRecord, LineageRecord
from kd_offline.untrusted_text import (
    for_markdown,
    for_terminal,
    markdown_code,
    markdown_fence,
)

# The Hub's identifiers of licences, https://huggingface.co/docs/hub/repositories-licenses: SPDX in
# small letters for these; any other is given by name.
_LICENCES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "isc", "zlib", "unlicense"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "pddl", "odc-by", "odbl"),
    "cdla-permissive-2.0",
}
_SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9, 10**10, 10**11, 10**12)


def card(
    dataset: ExpertBuffer | str | Path,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
) -> str:
    """Return a dataset card in Markdown, and write it to ``output`` if given.

    Raises
    ------
    DatasetError
        The dataset cannot be read.
    StorageError
        There is a file at ``output`` already, or it cannot be written.
    """
    target = None if output is None else Path(output).expanduser()
    if target is not None:
        check_output(target, overwrite=overwrite)
    buffer = dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)
    text = render(buffer)
    if target is not None:
        write_output(target, text, overwrite=overwrite)
    return text


def render(buffer: ExpertBuffer) -> str:
    """Return the card of an open dataset."""
    return "\n\n".join([_yaml_header(buffer), *card_sections(buffer)]) + "\n"


def metadata(buffer: ExpertBuffer) -> dict[str, Any]:
    """Return the fields of the header, with the Hub's names."""
    manifest = buffer.manifest
    size = next((k for k, most in enumerate(_SIZES) if buffer.n_steps < most), len(_SIZES))
    licence = manifest.licence.strip()
    is_known_licence = licence.lower() in _LICENCES
    fields: dict[str, Any] = {
        "pretty_name": manifest.name,
        "license": licence.lower() if is_known_licence else "other" if licence else "unknown",
        "task_categories": ["reinforcement-learning"],
        "size_categories": [_size_category(size)],
        "tags": ["kd-offline", "multi-agent", "offline-rl", "knowledge-distillation", "zarr"],
    }
    fields["tags"].append(buffer.spec.id)
    return fields | ({"license_name": licence} if licence and not is_known_licence else {})


def _size_category(size: int) -> str:
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    if size == 0:
        return "n<1K"
    return "n>1T" if size == len(names) else f"{names[size - 1]}<n<{names[size]}"


def _yaml_header(buffer: ExpertBuffer) -> str:
    """Return the header in YAML; values are JSON, which is valid YAML."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in metadata(buffer).items()]
    return "\n".join(["---", *lines, "---"])


def card_sections(buffer: ExpertBuffer) -> Iterator[str]:
    """Yield the sections that are not empty, with their titles."""
    for title, section in SECTIONS:
        if lines := list(section(buffer)):
            yield "\n".join([f"## {title}", "", *lines] if title else lines)


def _title(buffer: ExpertBuffer) -> Iterator[str]:
    manifest = buffer.manifest
    yield f"# {for_markdown(manifest.name)} {for_markdown(manifest.version)}"
    yield ""
    if manifest.description:
        yield for_markdown(manifest.description)
        yield ""
    yield (
        f"An expert buffer: {buffer.n_episodes:,} episodes ({buffer.n_steps:,} steps) of "
        f"{markdown_code(buffer.spec.id)} with {buffer.spec.n_agents} agents, and for every step "
        "what the expert saw, did and thought. Teams of small students are distilled from it "
        "without the environment."
    )
    yield ""
    yield f"- id: `{manifest.id}`"
    yield f"- format: expert buffer {'.'.join(map(str, manifest.format_version))} (Zarr v3)"
    yield f"- size: {size_bytes(buffer) / 1e6:,.1f} MB stored"
    yield f"- licence: {for_markdown(manifest.licence) or 'not stated'}"


def _loading(buffer: ExpertBuffer) -> Iterator[str]:
    held = [name for name in ("steps/logits", "steps/obs") if buffer.has(name)]
    yield "```python"
    yield "from kd_offline import ExpertBuffer"
    yield ""
    yield 'buffer = ExpertBuffer.open("dataset.zarr")'
    yield f'train = buffer.load({json.dumps(held)}, buffer.split("train"))'
    yield "```"
    yield ""
    yield (
        "Any library for Zarr v3 reads the same arrays, without the checks: "
        '`zarr.open_group("dataset.zarr", mode="r")`.'
    )


def _environment(buffer: ExpertBuffer) -> Iterator[str]:
    spec = buffer.spec
    settings = ", ".join(markdown_code(f"{key}={value}") for key, value in spec.kwargs.items())
    yield (
        f"{markdown_code(spec.id)}, version {for_markdown(spec.version)}"
        f"{f', {settings}' if settings else ''}; at most {spec.episode_limit} steps an episode."
    )
    yield ""
    sides = {agent: side for side, agents in spec.sides.items() for agent in agents}
    rows = [
        (
            *map(for_markdown, (agent, sides[agent], width)),
            ", ".join(map(for_markdown, actions)),
            ", ".join(map(for_markdown, spec.blocks[agent])),
        )
        for agent, width, actions in zip(
            spec.agents, spec.obs_widths, spec.action_names, strict=True
        )
    ]
    yield from _table(("agent", "side", "observation", "actions", "blocks"), rows)


def _experts(buffer: ExpertBuffer) -> Iterator[str]:
    for expert in buffer.manifest.experts:
        yield f"- {expert.id}: {_expert(expert)}"
    if not buffer.manifest.experts:
        yield "Not recorded."
    yield ""
    whose = "the agents of a side" if len(buffer.spec.sides) > 1 else "agents"
    yield f"How strong they were, as recorded (returns summed over {whose} and steps):"
    yield ""
    yield from _table(("expert", "noise", "episodes", "return", "won"), list(_strength(buffer)))


def _expert(expert: ExpertRecord) -> str:
    parts = [
        f"{expert.kind}, {expert.reference}, {expert.parameters:,} parameters",
        f"checkpoint {expert.digest}" if expert.digest else "",
        f"{expert.capture.output.replace('_', ' ')} unmasked at temperature 1",
        f"embedding: {expert.capture.embedding}" if expert.capture.embedding else "",
        f"values: {expert.value_of}, discount {expert.gamma}" if expert.value_of else "",
        *(f"{side} played by {who}" for side, who in expert.opponents.items()),
    ]
    return "; ".join(for_markdown(part) for part in parts if part)


def _strength(buffer: ExpertBuffer) -> Iterator[tuple[str, ...]]:
    """Yield a row of return and wins for every expert and noise level."""
    columns = [name for name in ("expert_id", "noise_level") if buffer.has(f"episodes/{name}")]
    keys = [buffer.episodes(name).astype(np.float64) for name in columns]
    table = np.stack(keys, axis=1) if keys else np.zeros((buffer.n_episodes, 0))
    kinds, kind_of_episode = np.unique(table, axis=0, return_inverse=True)
    won = buffer.episodes("won") if buffer.has("episodes/won") else None
    for k, kind in enumerate(kinds):
        of_kind = kind_of_episode.reshape(-1) == k
        values = dict(zip(columns, kind, strict=True))
        sides = side_returns(buffer.spec, buffer.episodes("agent_return")[of_kind])
        returns = sides or {"": spread(buffer.episodes("return")[of_kind])}
        wins = "" if won is None or (won[of_kind] < 0).any() else f"{(won[of_kind] > 0).mean():.1%}"
        yield (
            f"{values['expert_id']:.0f}" if "expert_id" in values else "",
            f"{values['noise_level']:g}" if "noise_level" in values else "",
            f"{of_kind.sum():,}",
            "; ".join(
                f"{for_markdown(side)} {x.mean:.3f} ± {x.std:.3f}".strip()
                for side, x in returns.items()
            ),
            wins,
        )


def _recording(buffer: ExpertBuffer) -> Iterator[str]:
    manifest = buffer.manifest
    recording = manifest.recording
    yield (
        f"Actions are {for_markdown(recording.behaviour)}; "
        + (for_markdown(recording.noise_rule) or "no behaviour noise was stated")
        + "."
    )
    partner = {k: v for k, v in recording.settings.items() if k.startswith("partner")}
    if partner.get("partner", "none") != "none":
        yield f"A partner took part: {_key_values(partner)}."
    if recording.software:
        yield f"Software: {_key_values(recording.software)}."
    if lines := commands(manifest):
        yield from ("", *markdown_fence("\n".join(map(for_terminal, lines))))


def _lineage(buffer: ExpertBuffer) -> Iterator[str]:
    steps = buffer.manifest.lineage
    for step in steps:
        parents = ", ".join(markdown_code(parent[:19]) for parent in step.parents)
        parents = parents or f"shard {for_markdown(str(step.arguments.get('shard', '?')))}"
        result = markdown_code(step.result[:19]) if step.result else "this dataset"
        yield f"- {for_markdown(step.operation)} of {parents}: {result}"


def _arrays(buffer: ExpertBuffer) -> Iterator[str]:
    rows = []
    for name, spec in buffer.manifest.arrays.items():
        sizes = (f"{axis} {size:,}" for axis, size in zip(spec.axes, spec.shape, strict=True))
        rows.append((markdown_code(name), *map(for_markdown, (spec.dtype, "; ".join(sizes)))))
    yield from _table(("array", "type", "axes"), rows)
    yield ""
    yield (
        "R steps, E episodes, N agents, O observation width, A actions, S state width, H hidden "
        "width."
    )


def _masks(buffer: ExpertBuffer) -> Iterator[str]:
    for name, record in buffer.manifest.masks.items():
        description = for_markdown(record.description) or "no description"
        yield f"- {markdown_code(name)}: {description}"


def _splits(buffer: ExpertBuffer) -> Iterator[str]:
    rows = [
        (for_markdown(name), f"{split.episodes:,}", f"{split.steps:,}")
        for name, split in buffer.manifest.splits.items()
    ]
    yield from _table(("split", "episodes", "steps"), rows)
    yield ""
    yield "By whole episodes, in `episodes/split`."


def _statistics(buffer: ExpertBuffer) -> Iterator[str]:
    figures = buffer.manifest.statistics
    spreads = {"return": figures.returns, "length": figures.length}
    spreads |= {
        f"return of {for_markdown(agent)}": spread
        for agent, spread in zip(buffer.spec.agents, figures.agent_returns, strict=True)
    }
    rows = [
        (name, f"{s.mean:.3f}", f"{s.std:.3f}", f"{s.min:.3f}", f"{s.max:.3f}")
        for name, s in spreads.items()
    ]
    yield from _table(("of an episode", "mean", "deviation", "least", "most"), rows)


def _integrity(buffer: ExpertBuffer) -> Iterator[str]:
    yield (
        "Every file has a sha256 and every array a digest in `manifest.json`; the id is a digest "
        "of the content and of what gives it meaning. A damaged or altered copy is noticed by "
        "ordinary reading, and found by"
    )
    yield ""
    yield "```"
    yield "kd-offline verify dataset.zarr"
    yield "```"


def _limits(buffer: ExpertBuffer) -> Iterator[str]:
    has = buffer.has
    parts = {name for name, part in buffer.manifest.splits.items() if part.episodes}
    others = ", ".join(map(for_markdown, sorted(parts - {"train", HELD_OUT})))
    limits = {
        "Without `steps/logits` and `steps/q_values` only cloning methods can use it.": not (
            has("steps/logits") or has("steps/q_values")
        ),
        "It holds no embeddings.": not has("steps/embedding"),
        "It holds no values of a critic.": not has("steps/value"),
        "Episodes have no seeds, so they cannot be played again.": not has("episodes/seed"),
        "No episodes are held out: split it before you judge students on it.": parts <= {"train"},
        f"No part is called `heldout`: name the part to judge students by ({others}).": (
            HELD_OUT not in parts and bool(others)
        ),
        "One expert played all episodes, so it shows one way of playing.": (
            len(buffer.manifest.experts) == 1
        ),
        "No licence is stated: ask its makers before you use or share it.": (
            not buffer.manifest.licence
        ),
    }
    yield from (f"- {text}" for text, applies in limits.items() if applies)
    if (warning := final_value_warning(buffer.manifest)) is not None:
        yield f"- {warning[0].upper()}{warning[1:]}."
    yield (
        "- Values of agents that are not alive mean nothing. Logits are raw: apply the legal "
        "actions yourself."
    )
    task = markdown_code(buffer.spec.id)
    yield f"- It says nothing about other settings than those of {task} above."


def _citation(buffer: ExpertBuffer) -> Iterator[str]:
    if buffer.manifest.citation:
        yield from (*markdown_fence(buffer.manifest.citation), "")
    yield f"Cite the id with it: it names these bytes and no others. `{buffer.manifest.id}`"


SECTIONS: tuple[tuple[str, Callable[[ExpertBuffer], Iterator[str]]], ...] = (
    ("", _title),
    ("Loading it", _loading),
    ("Environment", _environment),
    ("Experts", _experts),
    ("How it was made", _recording),
    ("Lineage", _lineage),
    ("Arrays", _arrays),
    ("Student masks", _masks),
    ("Splits", _splits),
    ("Statistics", _statistics),
    ("Integrity", _integrity),
    ("Known limits", _limits),
    ("Citation", _citation),
)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a Markdown table without columns that are empty in every row."""
    used_columns = [k for k in range(len(head)) if any(row[k] for row in rows)]
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(row[k] for k in used_columns) + " |"


def _key_values(facts: Mapping[str, object]) -> str:
    return ", ".join(for_markdown(f"{name} {value}") for name, value in facts.items())


_RESULT = "dataset.zarr"
_EDITS = ("split", "filter", "merge", "append", "relabel-masks", "annotate")
_OPERATIONS = {name: name for name in _EDITS} | {"arrays": "pull"}
_NOT_OPTIONS = {"recordings", "dropped_episodes"}
_OPTIONS = {"left_out": "without", "masks": "mask"}
_FLAGS = {"keep": "allow_duplicates", "drop": "drop_duplicates"}


def commands(manifest: DatasetManifest) -> list[str]:
    """Return command lines; empty if another program recorded the dataset.

    Intermediate datasets are named by the first digits of their ids.
    """
    shard = shard_of(manifest.name, manifest)
    recorded = not manifest.lineage or shard is not None
    edits = manifest.lineage if shard is None else manifest.lineage[1:]
    first = [_record_command(manifest, shard)] if recorded and _is_ours(manifest) else []
    return [*first, *map(_edit_command, edits)]


def _is_ours(manifest: DatasetManifest) -> bool:
    return "kd_offline" in manifest.recording.software


def _record_command(manifest: DatasetManifest, shard: Shard | None) -> str:
    recording, spec = manifest.recording, manifest.environment
    recorded = manifest.sole_expert  # a recording has one expert; only merges add others
    expert = recorded.reference if recorded else "bundled"
    noise = ",".join(f"{part.level:g}:{part.share:g}" for part in recording.noise)
    partner = str(recording.settings.get("partner", "none"))
    return command_text(
        *("record", spec.id, "-o", _RESULT),
        expert=expert if expert.startswith(("bundled", "python:")) else "expert/",
        episodes=recording.episodes if shard is None else shard.whole,
        seed=recording.seed,
        shard=None if shard is None else shard.place,
        noise=noise or "none",
        batch=recording.batch,
        partner=partner if partner in ("none", "bundled") else "run/",
        partner_share=recording.settings.get("partner_share"),
        embedding=recording.settings.get("embedding_dtype"),
        env=[f"{name}={value}" for name, value in spec.kwargs.items()],
        mask=list(manifest.masks),
    )


def _edit_command(step: LineageRecord) -> str:
    if step.operation not in _OPERATIONS:
        return f"# {step.operation} of {', '.join(map(_file_name, step.parents))}"
    arguments = [_OPERATIONS[step.operation], *(_file_name(parent) for parent in step.parents)]
    arguments += ["-o", _file_name(step.result) if step.result else _RESULT]
    options: dict[str, object] = {}
    for name, value in step.arguments.items():
        if name == "duplicates":
            options |= {_FLAGS[value]: True} if value in _FLAGS else {}
        elif name not in _NOT_OPTIONS:
            options[_OPTIONS.get(name, name)] = _value(name, value)
    return command_text(*arguments, **options)


def _value(name: str, value: Any) -> object:
    """Return the value of the option that stands for an argument of an operation."""
    if name in ("episodes", "arrays"):
        return (":" if name == "episodes" else ",").join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{key}:{share:g}" for key, share in value.items())
    return value


def _file_name(digest: str) -> str:
    return f"{digest.removeprefix('sha256:')[:8]}.zarr"
