"""The C99 export: for each agent one pair of files, made from its network, and its self-test.

What is the same for every export lies ready in ``kd_offline/exports/c`` and is copied.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from kd_offline.exports.network import AgentNetwork
from kd_offline.exports.vectors import Vectors
from kd_offline.files import write_file
from kd_offline.networks.arithmetic import index_size
from kd_offline.networks.deployed import Affine
from kd_offline.schemas.export import REFUSAL, RESET, WAITING, AgentContract
from kd_offline.types import Array, BoolArray

COPIED = (
    "Makefile",
    "bare.c",
    "emulated.c",
    "host.c",
    "image.ld",
    "kernels.h",
    "selftest.c",
    "selftest.h",
    "startup.h",
)
_TIMED, _TIMED_MACS = 64, 5_000_000  # a 24-bit timer counts the steps


def write(
    folder: Path,
    networks: Sequence[AgentNetwork],
    agents: Sequence[AgentContract],
    vectors: Sequence[Vectors],
    tolerance: float,
    title: str,
) -> None:
    """Write everything into a folder that exists."""
    source = files("kd_offline.exports") / "c"
    for name in COPIED:
        write_file(folder / name, (source / name).read_text("utf-8"))
    most = _TIMED_MACS // max(1, *(agent.macs for agent in agents))
    timed = max(1, min(_TIMED, most, *(len(v.obs) for v in vectors)))
    names = " ".join(agent.symbol for agent in agents)
    make = f"AGENTS := {names}\nTOLERANCE := {tolerance!r}f\nTIMED := {timed}\n"
    write_file(folder / "agents.mk", make)
    for network, agent, recorded in zip(networks, agents, vectors, strict=True):
        write_file(folder / f"{agent.symbol}.h", _header(network, agent, title))
        write_file(folder / f"{agent.symbol}.c", _source(network, agent))
        write_file(folder / f"test_{agent.symbol}.c", _test(agent, recorded))


def static_bytes(network: AgentNetwork) -> int:
    """Bytes of the buffers of a step, its memory and its logits."""
    return 4 * (sum(_buffers(network).values()) + network.memory_width + network.actions)


def _buffers(network: AgentNetwork) -> dict[str, int]:
    """Return the static buffers of the step, in floats."""
    columns = [m.weight.shape[1] for m in network.matrices.values()]
    widths = [len(layer.bias) for layer in network.trunk]
    sizes = {"x": max(columns[0], *widths[1::2], 1)}
    if widths:
        sizes["y"] = max(widths[::2])
    return sizes if network.cell is None else sizes | network.cell.c_buffers()


def _terms(agent: AgentContract, title: str) -> str:
    """Return the comment that tells a caller what to give and what to expect."""
    lines = [
        "The observation holds what the agent sees and nothing else: these entries of the whole "
        f"observation of {agent.obs_width}, in the order of {agent.symbol.upper()}_SEEN."
    ]
    lines += [
        f"  {_plain(block)}: {', '.join(map(str, indices))}"
        for block, indices in agent.blocks.items()
    ]
    if agent.drawn:
        lines.append(
            "The mask differs by episode: all features are given, then a number for each, 1 seen "
            "and 0 hidden."
        )
    lines.append("Actions: " + ", ".join(f"{k} {_plain(a)}" for k, a in enumerate(agent.actions)))
    lines += [f"Reset: {RESET}.", f"Refusal: {REFUSAL}.", f"No legal action: {WAITING}."]
    lines += [
        f"  memory[{start}..{stop - 1}] {part}" for part, (start, stop) in agent.memory.items()
    ]
    lines.append("One step at a time in a process: the buffers are static.")
    body = "\n".join(_comment(line) for line in lines)
    return f"/* {_plain(agent.agent)}: {_plain(title)}\n *\n{body} */"


def _header(network: AgentNetwork, agent: AgentContract, title: str) -> str:
    name, upper = agent.symbol, agent.symbol.upper()
    return f"""{_terms(agent, title)}
#ifndef {upper}_H
#define {upper}_H

#define {upper}_INPUTS {agent.inputs}
#define {upper}_ACTIONS {len(agent.actions)}
#define {upper}_MEMORY {agent.memory_width}
#define {upper}_SEEN {{{", ".join(map(str, agent.seen)) or "0"}}}

#define {upper}_PARAMETER_BYTES {agent.parameter_bytes} /* weights, before padding to lanes */
#define {upper}_RAM_BYTES {static_bytes(network)} /* buffers, memory and logits */
#define {upper}_MACS {agent.macs} /* multiply-accumulates of a step */

#ifdef __cplusplus
extern "C" {{
#endif

/* Forget everything; at the start of every episode. memory: [{upper}_MEMORY] */
void {name}_reset(float *memory);

/* Decide once: returns the greedy legal action, fills logits and brings memory up to date. A step
 * that is refused fills logits with NaN: look at one of them before you trust the action.
 * obs: [{upper}_INPUTS], legal: [{upper}_ACTIONS] 0 or 1, logits: [{upper}_ACTIONS] */
int {name}_act(const float *obs, const unsigned char *legal, float *memory, float *logits);

/* Say that another action was executed than the one that was returned. */
void {name}_executed(float *memory, int action);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _comment(text: str) -> str:
    return "\n".join(f" * {line}" for line in textwrap.wrap(text, 92))


def _source(network: AgentNetwork, agent: AgentContract) -> str:
    buffers = "\n".join(f"static float {n}[{size}];" for n, size in _buffers(network).items())
    start, stop = agent.memory.get("last_action", (0, 0))
    executed = (
        f"    for (int i = 0; i < {stop - start}; i++)\n"
        f"        memory[{start} + i] = i == action ? 1.0f : 0.0f;"
        if stop
        else "    (void)memory;\n    (void)action;"
    )
    name, body = agent.symbol, "\n".join(f"    {line}" for line in _body(network, agent))
    return f"""#include "{name}.h"

#include "kernels.h"

{_kernels(network)}{"".join(_constants(network))}
{buffers}

void {name}_reset(float *memory)
{{
    for (int i = 0; i < {agent.memory_width}; i++)
        memory[i] = 0.0f;
}}

void {name}_executed(float *memory, int action)
{{
{executed}
}}

int {name}_act(const float *obs, const unsigned char *legal, float *memory, float *logits)
{{
{body}
}}
"""


def _constants(network: AgentNetwork) -> Iterator[str]:
    if len(network.seen):
        yield floats("centre", network.centre)
        yield floats("scale", network.scale)
    if network.motion is not None:
        yield floats("motion", network.motion)
    for name, affine in network.matrices.items():
        label = name.replace(".", "_")
        if affine.kept is not None:
            yield from _compressed(label, affine, affine.kept)
            continue
        packed = interleaved(affine.weight)
        if affine.scale is None:
            yield floats(f"{label}_weight", packed)
        else:
            yield array("int8_t", f"{label}_weight", map(str, packed.ravel().tolist()))
            yield floats(f"{label}_scale", padded(affine.scale))
        yield floats(f"{label}_bias", padded(affine.bias))


def _compressed(label: str, affine: Affine, kept: BoolArray) -> Iterator[str]:
    """Yield a sparse matrix in compressed rows of blocks, see ``KD_SPARSE`` of ``kernels.h``."""
    rows, columns = np.nonzero(kept)
    blocks = affine.weight.reshape(len(kept), affine.block, -1)[rows, :, columns]
    starts = np.concatenate([[0], np.cumsum(kept.sum(1))])
    values, index, start = _types(affine, kept)
    if affine.scale is None:
        yield floats(f"{label}_weight", blocks)
    else:
        yield array(values, f"{label}_weight", map(str, blocks.ravel().tolist()))
        yield floats(f"{label}_scale", affine.scale)
    yield array(index, f"{label}_column", map(str, columns.tolist()))
    yield array(start, f"{label}_start", map(str, starts.tolist()))
    yield floats(f"{label}_bias", affine.bias)


def _types(affine: Affine, kept: BoolArray) -> tuple[str, str, str]:
    """Return the C types of weights, column indices and row pointers of a sparse matrix."""
    value = "float" if affine.scale is None else "int8_t"
    largest = (kept.shape[1] - 1, int(kept.sum()))
    index, start = (f"uint{8 * index_size(each)}_t" for each in largest)
    return value, index, start


def _kernel(affine: Affine, kept: BoolArray) -> str:
    """Return the name of the function that multiplies by a sparse matrix."""
    words = "_".join(kind.removesuffix("_t") for kind in _types(affine, kept))
    return f"kd_sparse_{words}_{affine.block}"


def _kernels(network: AgentNetwork) -> str:
    """Return the definitions of the functions that multiply by the sparse matrices."""
    found = {
        _kernel(m, m.kept): f"{', '.join(_types(m, m.kept))}, {m.block}"
        for m in network.matrices.values()
        if m.kept is not None
    }
    return "".join(f"KD_SPARSE({name}, {types})\n" for name, types in found.items())


def _body(network: AgentNetwork, agent: AgentContract) -> Iterator[str]:
    """Yield the lines of the step; ``network.step`` says the same in NumPy."""
    yield from _inputs(network, agent)
    now, other = "x", "y"
    for k, layer in enumerate(network.trunk):
        yield _affine(f"trunk_{k}", layer, now, other)
        yield f"kd_normalise({other}, {len(layer.bias)});"
        now, other = other, now
    if network.cell is not None:
        yield from network.cell.c_lines(_affine, now)
        now = "memory"
    yield _affine("head", network.head, now, "logits")
    choice = f"kd_choose(logits, legal, {network.actions})"
    if network.last_action:
        start, stop = network.memory["last_action"]
        yield f"const int action = {choice};"
        yield f"for (int i = 0; i < {stop - start}; i++)"
        yield f"    memory[{start} + i] = i == action ? 1.0f : 0.0f;"
        yield "return action;"
        return
    yield f"return {choice};"


def _inputs(network: AgentNetwork, agent: AgentContract) -> Iterator[str]:
    """Yield the lines that fill ``x`` with what the first matrix takes, or refuse the step."""
    count = at = len(network.seen)
    memory = network.memory
    if not count:
        yield "(void)obs;"
    else:
        visible = f" * obs[{count} + i]" if network.drawn else ""
        yield f"for (int i = 0; i < {count}; i++)"
        yield f"    x[i] = (obs[i] - centre[i]) * scale[i]{visible};"
    yield f"if (!kd_usable(x, {count}) || !kd_usable(memory, {network.memory_width})) {{"
    yield f"    const int first = kd_refuse(logits, legal, {network.actions});"
    yield f"    {agent.symbol}_executed(memory, first);"
    yield "    return first;"
    yield "}"
    if network.mask_input:
        yield f"for (int i = 0; i < {count}; i++)"
        yield f"    x[{at} + i] = obs[{count} + i];"
        at += count
    if network.motion is not None:
        (before, _), (started, _) = memory["previous"], memory["started"]
        yield f"for (int i = 0; i < {count}; i++) {{"
        yield f"    x[{at} + i] = (x[i] - memory[{before} + i]) * motion[i] * memory[{started}];"
        yield f"    memory[{before} + i] = x[i];"
        yield "}"
        yield f"memory[{started}] = 1.0f;"
        at += count
    if network.last_action:
        start, stop = memory["last_action"]
        yield f"for (int i = 0; i < {stop - start}; i++)"
        yield f"    x[{at} + i] = memory[{start} + i];"


def _affine(name: str, affine: Affine, source: str, target: str) -> str:
    rows, columns = affine.weight.shape
    if affine.kept is not None:
        scale = "(const float *)0" if affine.scale is None else f"{name}_scale"
        arrays = f"{name}_weight, {name}_column, {name}_start, {scale}, {name}_bias"
        return f"{_kernel(affine, affine.kept)}({arrays}, {source}, {target}, {len(affine.kept)});"
    if affine.scale is None:
        return f"kd_affine({name}_weight, {name}_bias, {source}, {target}, {rows}, {columns});"
    weights = f"{name}_weight, {name}_scale, {name}_bias"
    return f"kd_affine_int8({weights}, {source}, {target}, {rows}, {columns});"


def _test(agent: AgentContract, recorded: Vectors) -> str:
    name, steps = agent.symbol, len(recorded.obs)
    integers = {
        "unsigned char legal": recorded.legal.astype(int),
        "short executed": recorded.executed,
        "short expected": recorded.action,
    }
    arrays = [floats("obs", recorded.obs), floats("said", recorded.logits)]
    for declared, values in integers.items():
        kind, label = declared.rsplit(" ", 1)
        arrays.append(array(kind, label, map(str, values.ravel().tolist())))
    return f"""#include "{name}.h"

#include "selftest.h"

{"".join(arrays)}
const struct kd_case kd_case = {{
    {json.dumps(_plain(agent.agent))}, {steps}, {agent.inputs}, {len(agent.actions)},
    {agent.memory_width}, obs, legal, executed, expected, said,
    {name}_act, {name}_reset, {name}_executed,
}};
"""


def _plain(text: str) -> str:
    """Return ``text`` as a comment or a string of C may hold it, whatever it was."""
    return "".join(c if c.isascii() and (c.isalnum() or c in " _-.,:()+=/") else "_" for c in text)


LANES = 8
"""Rows that lie interleaved, as ``kernels.h`` walks over them."""


def interleaved(weight: Array) -> Array:
    """Return rows in blocks of :data:`LANES`: [ceil(rows / LANES), columns, LANES]."""
    rows, columns = weight.shape
    blocks = padded(weight).reshape(-(-rows // LANES), LANES, columns)
    return np.ascontiguousarray(blocks.swapaxes(1, 2))


def padded(values: Array) -> Array:
    """Return rows up to a multiple of :data:`LANES`, the last ones zero."""
    spare = -len(values) % LANES
    return np.concatenate([values, np.zeros((spare, *values.shape[1:]), values.dtype)])


def floats(name: str, values: Array) -> str:
    """Return the definition of a constant array of floats."""
    return array("float", name, (f"{short(v)}f" for v in values.ravel().tolist()))


def short(value: float) -> str:
    """Return the exact hexadecimal form of a float, without zeros that say nothing."""
    mantissa, _, exponent = value.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}"


def array(kind: str, name: str, values: Iterable[str]) -> str:
    """Return the definition of a constant array; one without values holds a zero."""
    every = list(values) or ["0"]
    lines = (", ".join(every[k : k + 8]) for k in range(0, len(every), 8))
    body = ",\n    ".join(lines)
    return f"static const {kind} {name}[{len(every)}] = {{\n    {body}\n}};\n"
