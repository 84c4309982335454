"""Interfaces that fit, or do not, each in its own way, against a hand-made profile."""

import json

import pytest

from kd_offline.deployment.check import deploy_check, interface_of, read_interface
from kd_offline.errors import UsageError
from kd_offline.schemas.collaboration import Latency, TimedEngine
from kd_offline.schemas.hardware import UnavailableEnergy
from kd_offline.schemas.interface import InterfaceSpec
from kd_offline.schemas.run import Machine
from tests.unit.evaluation.test_evaluation_setup import MASK, NAME, SPEC

AGENT = "agent_0"
BLOCKS = {name: [list(pair) for pair in ranges] for name, ranges in SPEC.blocks[AGENT].items()}
HIDDEN = [name for name, ranges in BLOCKS.items() if not MASK[0][ranges[0][0]]]
SEEN = [name for name in BLOCKS if name not in HIDDEN]


@pytest.fixture
def interface():
    """The environment's own interface, as a tree to be changed."""
    return json.loads(interface_of(SPEC).model_dump_json())


def check(profile, tree):
    return deploy_check(profile, InterfaceSpec.model_validate_json(json.dumps(tree)))


def sentence(profile, tree):
    """Return where the only mismatch is and what it says."""
    found = check(profile, tree)
    assert not found.fits
    assert len(found.mismatches) == 1, found.mismatches
    return found.mismatches[0].where, found.mismatches[0].what


def test_its_own_environment_fits_as_it_is(played):
    found = deploy_check(played, environment=NAME)
    assert found.fits
    assert found.interface == NAME
    assert all(agent.as_it_is for agent in found.agents)
    assert found.agents[0].observation == played.agents[0].contract.seen
    assert found.notes == ()
    assert "in the same units" in found.not_checked[0]


def test_moved_blocks_fit_by_a_permutation(played, interface):
    """The last block comes first, everything else moves up by its width."""
    last = max(BLOCKS, key=lambda name: BLOCKS[name][0][0])
    (start, stop), width = BLOCKS[last][0], interface["agents"][AGENT]["observation_width"]
    assert stop == width
    moved = {
        name: [[a + width - start, b + width - start] for a, b in ranges]
        for name, ranges in BLOCKS.items()
        if name != last
    }
    interface["agents"][AGENT]["blocks"] = moved | {last: [[0, width - start]]}
    found = check(played, interface)
    assert found.fits
    assert not found.agents[0].as_it_is
    seen = played.agents[0].contract.seen
    want = tuple(k - start if k >= start else k + width - start for k in seen)
    assert found.agents[0].observation == want
    assert any(", in that order" in note for note in found.notes)
    assert {found.agents[0].blocks[name] for name in SEEN} == {"moved"}


def test_a_hidden_block_need_not_be_there(played, interface):
    assert HIDDEN
    for name in HIDDEN:
        del interface["agents"][AGENT]["blocks"][name]
    found = check(played, interface)
    assert found.fits
    assert found.agents[0].as_it_is
    assert any("mask hides it anyway" in note for note in found.notes)


def test_a_block_that_is_seen_must_be_there(played, interface):
    del interface["agents"][AGENT]["blocks"][SEEN[0]]
    where, what = sentence(played, interface)
    assert where == f"agents.{AGENT}.blocks.{SEEN[0]}"
    assert "which the interface does not have" in what
    fit = check(played, interface).agents
    assert fit[0].observation is None
    assert fit[0].blocks[SEEN[0]] == "missing"
    assert fit[0].blocks[SEEN[1]] == "same place"
    assert fit[1].as_it_is


def test_a_block_must_have_its_width(played, interface):
    (start, stop), *rest = BLOCKS[SEEN[0]]
    interface["agents"][AGENT]["blocks"][SEEN[0]] = [[start, stop - 1], *rest]
    where, what = sentence(played, interface)
    assert where == f"agents.{AGENT}.blocks.{SEEN[0]}"
    width = sum(b - a for a, b in BLOCKS[SEEN[0]])
    assert f"the student was trained with {width}" in what


def test_further_blocks_are_left_alone(played, interface):
    agent = interface["agents"][AGENT]
    width = agent["observation_width"]
    agent["blocks"]["camera"] = [[width, width + 4]]
    agent["observation_width"] = width + 4
    found = check(played, interface)
    assert found.fits
    assert any("leaves the blocks camera" in note for note in found.notes)


def test_actions(played, interface):
    ours = list(SPEC.action_names[0])
    agent = interface["agents"][AGENT]
    agent["actions"] = ours[::-1]
    found = check(played, interface)
    assert found.fits
    assert found.agents[0].actions == tuple(range(len(ours)))[::-1]
    assert not found.agents[0].as_it_is
    agent["actions"] = [*ours, "jump"]
    where, what = sentence(played, interface)
    assert where == f"agents.{AGENT}.actions"
    assert "has the actions jump, which the student does not know" in what
    agent["actions"] = ours[:-1]
    assert f"may choose {ours[-1]}, which" in sentence(played, interface)[1]


def test_agents(played, interface):
    agents = interface["agents"]
    agents["agent_9"] = agents.pop(AGENT)
    found = check(played, interface)
    assert [m.where for m in found.mismatches] == ["agents.agent_0", "agents.agent_9"]
    assert "for whom there is no student" in found.mismatches[1].what
    assert [agent.agent for agent in found.agents] == ["agent_1", "agent_2"]


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"kept": False}, "hidden_state.kept"),
        ({"reset_at_episode_start": False}, "hidden_state.reset_at_episode_start"),
    ],
)
def test_memory_is_kept_and_reset(played, interface, state, where):
    interface["hidden_state"] = state
    assert sentence(played, interface)[0] == where
    without = played.hidden_state.model_copy(update={"agents": ()})
    forgetful = played.model_copy(update={"hidden_state": without})
    assert check(forgetful, interface).fits


def test_communication(played, interface):
    found = check(played, interface | {"communication": "offered"})
    assert found.fits
    assert "do not use" in found.notes[0]
    assert sentence(played, interface | {"communication": "required"})[0] == "communication"


def test_room(played, interface):
    memory = played.agents[0].cost.memory
    agent = interface["agents"][AGENT]
    agent |= {"flash_bytes": memory.flash, "ram_bytes": memory.ram}
    found = check(played, interface)
    assert found.fits
    assert any("the code of agent_0" in text for text in found.not_checked)
    where, what = sentence(
        played, interface | {"agents": interface["agents"] | {AGENT: agent | {"ram_bytes": 8}}}
    )
    assert where == f"agents.{AGENT}.ram_bytes"
    assert f"{memory.ram:,} bytes of ram" in what


def test_rate(played, interface):
    interface["step_rate_hz"] = 1000.0
    assert any("has no latency" in text for text in check(played, interface).not_checked)
    machine = Machine(system="s", architecture="a", processor="a core", cores=1)
    slow, fast = (
        TimedEngine(
            who="student", engine=engine, agents=SPEC.agents, batch=1, samples=9, p50_us=1.0,
            p95_us=1.0, p99_us=p99, energy=UnavailableEnergy(reason="none"),
        )
        for engine, p99 in (("torch", 5000.0), ("c", 900.0))
    )  # fmt: skip

    def timed(*rows):
        latency = Latency(machine=machine, engines=rows)
        envelope = played.envelope.model_copy(update={"latency": latency})
        return played.model_copy(update={"envelope": envelope})

    found = check(timed(slow, fast), interface)
    assert found.fits
    assert any("other machines than a core" in text for text in found.not_checked)
    found = check(timed(slow), interface)
    assert [m.where for m in found.mismatches] == ["step_rate_hz"] * 3
    assert "1,000 us for a step" in found.mismatches[0].what


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[agents", "is not valid TOML"),
        ("", "is wrong at agents"),
        ("when = 2020-01-01\n[agents]", "holds a date"),
        ("agent = 1\n[agents]", "is wrong at"),
        ("[agents.a]\nobservation_width=3\nblocks={x=[[0,2]], y=[[1,3]]}\nactions=['n']", "hold"),
        ("[agents.a]\nobservation_width=1\nblocks={x=[[1,1]]}\nactions=['n']", "is empty or"),
        ("[agents.a]\nobservation_width=1\nblocks={}\nactions=['n','n']", "listed twice"),
    ],
)
def test_interfaces_that_say_nothing_sensible_are_refused(tmp_path, text, words):
    with pytest.raises(UsageError, match=words) as caught:
        read_interface(write(tmp_path / "i.toml", text))
    assert "\n" not in str(caught.value)


def test_interfaces_are_read_from_json_and_toml(tmp_path, played, interface):
    file = write(tmp_path / "i.json", json.dumps(interface))
    assert read_interface(file) == interface_of(SPEC)
    assert deploy_check(played, file).fits
    with pytest.raises(UsageError, match="check the path"):
        read_interface(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="settings only with an environment"):
        deploy_check(played, file, settings={"n_agents": 3})
