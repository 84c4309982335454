"""Whether one agent of a team fits one agent of an interface: observation, actions, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kd_offline.schemas.collaboration import AgentProfile, CollaborationProfile, ObservationBlock
from kd_offline.schemas.interface import AgentFit, AgentInterface, BlockFit, Mismatch

_MISFITS: tuple[BlockFit, ...] = ("missing", "another width")


def agent_fit(
    agent: AgentProfile, given: AgentInterface, team: CollaborationProfile
) -> tuple[AgentFit, list[Mismatch], list[str]]:
    """Return how an agent fits, why it does not, and what differs without doing harm."""
    name = agent.contract.agent
    where = f"agents.{name}"
    blocks = {block.name: _block(block, given) for block in agent.blocks}
    mismatches = [
        *_of_blocks(agent, given, blocks, where),
        *_of_actions(agent.contract.actions, given.actions, where),
        *_of_memory(agent, given, team, where),
    ]
    observation = _gathered(agent, given, blocks)
    actions = _numbers(agent.contract.actions, given.actions)
    fit = AgentFit(
        agent=name,
        fits=not mismatches,
        as_it_is=observation == agent.contract.seen and given.actions == agent.contract.actions,
        blocks=blocks,
        observation=observation,
        actions=actions,
    )
    return fit, mismatches, list(_harmless(agent, given, fit))


def _indices(ranges: Sequence[tuple[int, int]]) -> list[int]:
    return [k for start, stop in ranges for k in range(start, stop)]


def _block(block: ObservationBlock, given: AgentInterface) -> BlockFit:
    if not block.seen:
        return "hidden from the student"
    ranges = given.blocks.get(block.name)
    if ranges is None:
        return "missing"
    if len(_indices(ranges)) != block.width:
        return "another width"
    return "same place" if _indices(ranges) == _indices(block.ranges) else "moved"


def _of_blocks(
    agent: AgentProfile, given: AgentInterface, blocks: dict[str, BlockFit], where: str
) -> Iterator[Mismatch]:
    name = agent.contract.agent
    for block in agent.blocks:
        at = f"{where}.blocks.{block.name}"
        if blocks[block.name] == "missing":
            text = f"{name} needs the block {block.name!r} of {_numbers_of(block.width)}"
            yield Mismatch(where=at, what=f"{text}, which the interface does not have")
        if blocks[block.name] == "another width":
            width = len(_indices(given.blocks[block.name]))
            text = f"{name}'s block {block.name!r} has {_numbers_of(width)}"
            yield Mismatch(where=at, what=f"{text}, the student was trained with {block.width}")
    # Without a block's name there is only the place to go by.
    if _nameless(agent) and given.observation_width != agent.contract.obs_width:
        yield Mismatch(
            where=f"{where}.observation_width",
            what=f"{name} sees {_numbers_of(len(_nameless(agent)))} that belong to no block, so "
            f"the observation must have the width {agent.contract.obs_width}, "
            f"not {given.observation_width}",
        )


def _of_actions(ours: Sequence[str], theirs: Sequence[str], where: str) -> Iterator[Mismatch]:
    if more := [action for action in theirs if action not in ours]:
        yield Mismatch(
            where=f"{where}.actions",
            what=f"the interface has the actions {', '.join(more)}, which the student does not "
            f"know; it was trained with {', '.join(ours)}",
        )
    if fewer := [action for action in ours if action not in theirs]:
        yield Mismatch(
            where=f"{where}.actions",
            what=f"the student may choose {', '.join(fewer)}, which the interface does not have",
        )


def _of_memory(
    agent: AgentProfile, given: AgentInterface, team: CollaborationProfile, where: str
) -> Iterator[Mismatch]:
    flash, ram, how = needed(agent, team)
    for what, need, limit in (
        ("flash", flash, given.flash_bytes),
        ("ram", ram, given.ram_bytes),
    ):
        if need is not None and limit is not None and need > limit:
            yield Mismatch(
                where=f"{where}.{what}_bytes",
                what=f"{agent.contract.agent} needs {need:,} bytes of {what} ({how}), and there "
                f"are {limit:,}",
            )


def needed(agent: AgentProfile, team: CollaborationProfile) -> tuple[int | None, int | None, str]:
    """Return bytes of flash and of RAM, None where not known, and what they count."""
    cores = [] if team.export is None else team.export.cores
    mine = [core for core in cores if core.symbol == agent.contract.symbol]
    if mine:
        flash, ram = max(c.flash_bytes for c in mine), max(c.ram_bytes for c in mine)
        return flash, ram, "as linked for a microcontroller, without the stack"
    held = agent.cost.memory
    tables = None if held is None else held.flash
    if team.export is not None and team.export.precision != "fp32":
        tables = agent.contract.parameter_bytes
    return tables, None if held is None else held.ram, "of the C tables and buffers, without code"


def _gathered(
    agent: AgentProfile, given: AgentInterface, blocks: dict[str, BlockFit]
) -> tuple[int, ...] | None:
    """Return where each number that the step takes lies in the interface's observation."""
    if any(fit in _MISFITS for fit in blocks.values()):
        return None
    if _nameless(agent) and given.observation_width != agent.contract.obs_width:
        return None
    moved = {k: k for k in _nameless(agent)}
    for block in agent.blocks:
        if block.seen:
            moved |= zip(_indices(block.ranges), _indices(given.blocks[block.name]), strict=True)
    return tuple(moved[k] for k in agent.contract.seen)


def _nameless(agent: AgentProfile) -> list[int]:
    """Return what the student sees and no block holds."""
    named = {k for block in agent.blocks for k in _indices(block.ranges)}
    return [k for k in agent.contract.seen if k not in named]


def _numbers(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...] | None:
    if sorted(ours) != sorted(theirs):
        return None
    return tuple(theirs.index(action) for action in ours)


def _harmless(agent: AgentProfile, given: AgentInterface, fit: AgentFit) -> Iterator[str]:
    name = agent.contract.agent
    hidden = [b.name for b in agent.blocks if not b.seen and b.name not in given.blocks]
    if hidden:
        yield f"{name} does not need {', '.join(hidden)}: the student's mask hides it anyway"
    ours = {block.name for block in agent.blocks}
    if more := [block for block in given.blocks if block not in ours]:
        yield f"{name} leaves the blocks {', '.join(more)} of the interface unused"
    moved = fit.observation is not None and fit.observation != agent.contract.seen
    if moved and fit.observation is not None:
        yield f"{name} takes the numbers {_list(fit.observation)} of the interface, in that order"
    if fit.actions is not None and list(fit.actions) != sorted(fit.actions):
        yield (
            f"{name} has its actions in another order: its actions have the numbers "
            f"{_list(fit.actions)} of the interface"
        )


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _numbers_of(count: int) -> str:
    return f"{count} number{'s' * (count != 1)}"
