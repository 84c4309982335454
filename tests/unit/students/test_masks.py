import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.errors import MismatchError, UnknownNameError, UsageError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.students import masks

SPREAD = load("mpe/simple_spread_v3").spec
SPEAKER = load("mpe/simple_speaker_listener_v4").spec
ADVERSARY = load("mpe/simple_adversary_v3").spec
PARTICLE = [SPREAD, SPEAKER, ADVERSARY]
SEEDS = np.arange(400, dtype=np.uint64)


def seen(name: str, spec: EnvironmentSpec) -> list[list[str]]:
    """Return the blocks each agent sees, checking that nothing else is visible."""
    static = masks.resolve(name, spec).static
    assert static is not None
    listed: list[list[str]] = []
    for row, agent in enumerate(spec.agents):
        visible = np.zeros(spec.obs_width, bool)
        listed.append([])
        for block, ranges in spec.blocks[agent].items():
            inside = np.concatenate([np.arange(*ends) for ends in ranges])
            if static[row, inside].all():
                visible[inside] = True
                listed[-1].append(block)
        np.testing.assert_array_equal(static[row], visible)
    return listed


def test_the_limited_mask_of_spread_is_the_agreed_one() -> None:
    assert seen("limited", SPREAD) == [
        ["landmarks", "others"],
        ["own_velocity", "own_position", "landmarks"],
        ["own_position", "landmarks", "others"],
    ]


@pytest.mark.parametrize("n_agents", [1, 2, 5])
def test_limited_starts_over_for_other_team_sizes(n_agents: int) -> None:
    spec = load("mpe/simple_spread_v3", n_agents=n_agents).spec
    three = seen("limited", SPREAD)
    expected = [[b for b in three[i % 3] if b in spec.blocks["agent_0"]] for i in range(n_agents)]
    assert seen("limited", spec) == expected


def test_the_other_limited_masks() -> None:
    assert seen("limited", SPEAKER) == [["goal"], ["landmarks", "message"]]
    assert seen("limited", ADVERSARY) == [["others"], ["goal", "others"], ["goal", "landmarks"]]


@pytest.mark.parametrize(
    ("spec", "side", "hidden"),
    [
        # Always zero in this task.
        (SPREAD, "team", {"messages"}),
        # Follows from how the landmarks moved, for a listener that remembers.
        (SPEAKER, "team", {"own_velocity"}),
        (ADVERSARY, "good", set()),
    ],
    ids=["spread", "speaker_listener", "adversary"],
)
def test_under_limited_a_team_together_lacks_nothing(
    spec: EnvironmentSpec, side: str, hidden: set[str]
) -> None:
    listed = dict(zip(spec.agents, seen("limited", spec), strict=True))
    has = {block for agent in spec.sides[side] for block in listed[agent]}
    assert {block for agent in spec.sides[side] for block in spec.blocks[agent]} - has == hidden


def test_paper_is_table_two_where_the_features_exist() -> None:
    assert (
        seen("paper", SPREAD) == [["landmarks", "others"]] + [["own_velocity", "own_position"]] * 2
    )
    assert seen("paper", SPEAKER) == [[], ["own_velocity", "message"]]
    assert seen("paper", ADVERSARY) == [["landmarks", "others"], ["others"], ["others"]]


@pytest.mark.parametrize("spec", PARTICLE, ids=lambda spec: spec.id)
def test_padding_is_never_visible(spec: EnvironmentSpec) -> None:
    padding = np.arange(spec.obs_width) >= np.array(spec.obs_widths)[:, None]
    for name in [*masks.names_for(spec), "random-7"]:
        visible = masks.resolve(name, spec).for_episodes(SEEDS)
        assert not (visible & padding).any(), name
    full = masks.resolve("full", spec).static
    np.testing.assert_array_equal(full, ~padding)


def test_random_k_shows_eight_to_ten_of_eighteen_features() -> None:
    visible = masks.resolve("random-k", SPREAD).for_episodes(SEEDS)
    assert visible.shape == (400, 3, 18)
    assert set(np.unique(visible.sum(-1))) == {8, 9, 10}
    assert np.abs(visible.mean((0, 1)) - 0.5).max() < 0.07
    assert (visible[:, 0] != visible[:, 1]).any(-1).mean() > 0.9


def test_random_k_shows_a_like_share_of_a_narrower_observation() -> None:
    counts = masks.resolve("random-k", SPEAKER).for_episodes(SEEDS).sum(-1)
    assert set(counts[:, 0]) == {1, 2}
    assert set(counts[:, 1]) == {5, 6}


def test_an_exact_number_of_features_is_kept_within_the_width() -> None:
    counts = masks.resolve("random-4", SPEAKER).for_episodes(SEEDS).sum(-1)
    np.testing.assert_array_equal(np.unique(counts, axis=0), [[3, 4]])


def test_a_random_mask_depends_on_the_episodes_seed_alone() -> None:
    mask = masks.resolve("random-k", SPREAD)
    whole = mask.for_episodes(SEEDS)
    np.testing.assert_array_equal(mask.for_episodes(SEEDS[7:9]), whole[7:9])
    assert (masks.resolve("random-k", SPREAD, seed=1).for_episodes(SEEDS) != whole).any()


def test_names() -> None:
    assert masks.names_for(SPREAD) == ["full", "limited", "paper", "random-k"]
    other = SPREAD.model_copy(update={"id": "pettingzoo/some.thing:else"})
    assert masks.names_for(other) == ["full", "random-k"]


def combat(name: str, n: int) -> EnvironmentSpec:
    """Return a spec with ``n`` allies that see three numbers of SMAX's blocks."""
    agents = tuple(f"ally_{i}" for i in range(n))
    blocks = {block: ((k, k + 1),) for k, block in enumerate(("allies", "enemies", "own"))}
    changes = {"id": name, "agents": agents, "obs_widths": (3,) * n}
    return SPREAD.model_copy(update=changes | {"blocks": dict.fromkeys(agents, blocks)})


def test_combat_masks_are_table_i() -> None:
    e, a, o = "enemies", "allies", "own"
    table = {
        "3m": [{e}, {a}, {a, o}],
        "8m": [{e}, {e}, {e}, {a}, {a}, {e, o}, {a, o}, {a, e}],
        "5m_vs_6m": [{e}, {e}, {e, o, a}, {a}, {a, o}],
        "3s5z": [{e}, {e, a}, {e}, {a}, {a}, {a, o}, {a, o}, {e, o}],
    }
    for name, groups in table.items():
        spec = combat(f"smax/{name}", len(groups))
        assert [set(blocks) for blocks in seen("paper", spec)] == groups
        assert masks.names_for(spec) == ["full", "limited", "paper", "random-k"]


def test_the_limited_mask_is_there_for_every_map() -> None:
    spec = combat("smax/27m_vs_30m", 27)
    assert masks.names_for(spec) == ["full", "limited", "random-k"]
    visible = seen("limited", spec)
    assert all(len(blocks) == 2 for blocks in visible)
    assert set().union(*visible) == {"allies", "enemies", "own"}
    with pytest.raises(MismatchError, match="not defined for 'smax/27m_vs_30m'"):
        masks.resolve("paper", spec)


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    return str(path)


AGENTS = '[agents]\nspeaker_0 = ["goal"]\nlistener_0 = ["message", "landmarks"]\n'


def test_a_mask_from_a_file(tmp_path: Path) -> None:
    mask = masks.resolve(write(tmp_path, f'description = "d"\n{AGENTS}'), SPEAKER)
    assert (mask.name, mask.description) == ("mine", "d")
    assert seen(str(tmp_path / "mine.toml"), SPEAKER) == [["goal"], ["landmarks", "message"]]
    named = f'name = "n"\nenvironment = "{SPEAKER.id}"\n{AGENTS}'
    assert masks.resolve(write(tmp_path, named), SPEAKER).name == "n"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (f'environment = "mpe/simple_spread_v3"\n{AGENTS}', MismatchError, "not for"),
        (f"{AGENTS}goalie_0 = []", UnknownNameError, "allowed are speaker_0, listener_0"),
        (AGENTS.replace("message", "massage"), UnknownNameError, "did you mean 'message'"),
        ("[agents]\nspeaker_0 = []", UsageError, "says nothing about listener_0"),
        ("agents = 3", UsageError, "wrong at agents"),
        ("", UsageError, "wrong at agents: field required"),
        (f"extra = 1\n{AGENTS}", UsageError, "wrong at extra"),
        ("[agents", UsageError, "not valid TOML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        masks.resolve(write(tmp_path, text), SPEAKER)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        masks.resolve(str(tmp_path / "none.toml"), SPEAKER)


def test_an_unknown_mask_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'limited'"):
        masks.resolve("limitd", SPREAD)
    with pytest.raises(UnknownNameError, match="unknown mask 'random-0'"):
        masks.resolve("random-0", SPREAD)


def test_a_bundled_mask_for_another_environment_is_a_mismatch() -> None:
    other = SPREAD.model_copy(update={"id": "pettingzoo/some.thing:else"})
    with pytest.raises(MismatchError, match="only for mpe/simple_spread_v3"):
        masks.resolve("limited", other)


def test_masks_import_no_torch() -> None:
    code = "import sys, kd_offline.students.masks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
