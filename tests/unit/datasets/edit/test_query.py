import numpy as np
import pytest

from kd_offline.datasets.edit.query import column_names, episodes_where
from kd_offline.errors import MissingArrayError, UnknownNameError, UsageError
from kd_offline.testing.factories import environment_spec, tiny_dataset


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("return > 0", lambda c: c["return"] > 0),
        (" return>0 ", lambda c: c["return"] > 0),
        ("0 < return < 5", lambda c: (c["return"] > 0) & (c["return"] < 5)),
        ("won == 1 and length >= 10", lambda c: (c["won"] == 1) & (c["length"] >= 10)),
        ("not won == 1 or return < -3", lambda c: (c["won"] != 1) | (c["return"] < -3)),
        ("length in [4, 9, 14]", lambda c: np.isin(c["length"], [4, 9, 14])),
        ("length not in (4, 9)", lambda c: ~np.isin(c["length"], [4, 9])),
        ("return / length > 0.5", lambda c: c["return"] / c["length"] > 0.5),
        ("-return + 2 * length - 1 > 20", lambda c: -c["return"] + 2 * c["length"] - 1 > 20),
        ("episode < 5", lambda c: np.arange(40) < 5),
        ("return_agent_1 > return_agent_0", lambda c: c["agent"][:, 1] > c["agent"][:, 0]),
        ("return['agent_1'] > return_agent_0", lambda c: c["agent"][:, 1] > c["agent"][:, 0]),
        ("seed != 7", lambda c: c["seed"] != 7),
        ("noise_level == 0", lambda c: c["noise_level"] == 0),
        ("split == 1", lambda c: c["split"] == 1),
        ("return / (length - length) > 0", lambda c: c["return"] > 0),
        ("1 < 2", lambda c: np.ones(40, bool)),
    ],
)
def test_conditions(parent, text, expected):
    names = ("return", "length", "won", "seed", "noise_level", "split")
    table = {name: parent.episodes(name) for name in names}
    table["agent"] = parent.episodes("agent_return")
    assert np.array_equal(episodes_where(parent, text), expected(table))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "return",
        "return >",
        "3",
        "return + 1",
        "not return",
        "return and won",
        "__import__('os').system('true')",
        "(lambda: 1)() == 1",
        "return.real > 1",
        "return[0] > 1",
        "return[length] > 1",
        "return['agent_0', 'agent_1'] > 1",
        "length['agent_0'] > 1",
        "length ** 9 > 1",
        "length % 2 == 0",
        "length // 2 == 0",
        "length is 3",
        "length in 3",
        "length in return",
        "length == 'x'",
        "length == True",
        "length == None",
        "length == 1e999",
        "length == 1j",
        "(length := 3) == 3",
        "[x for x in (1, 2)] == 1",
        "f'{return}' == 1",
        "length > 1; won == 1",
        "length > 1\nwon == 1",
        "length\x00 > 1",
        "(" * 900 + "1" + ")" * 900 + " < 2",
        "-" * 1900 + "1 < 2",
        "length < " + "9" * 5000,
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_condition(parent, text):
    with pytest.raises(UsageError) as caught:
        episodes_where(parent, text)
    assert "condition" in str(caught.value)


def test_names_that_are_not_there(parent, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'length'"):
        episodes_where(parent, "lenght > 3")
    bare = tiny_dataset(tmp_path / "bare.zarr", without=["episodes/won"])
    assert "won" not in column_names(bare)
    with pytest.raises(MissingArrayError, match="'won'"):
        episodes_where(bare, "won == 1")


def test_an_agent_of_any_name_can_be_written(tmp_path):
    """Columns are listed as they can be written, whatever the agents are called."""
    plain = environment_spec((3,) * 6)
    named = ("0", "drone-1", "a b", "my return", "\ufb01x", 'say "yes"')
    spec = plain.model_copy(
        update={
            "agents": named,
            "sides": {"team": named},
            "blocks": dict(zip(named, plain.blocks.values(), strict=True)),
        }
    )
    buffer = tiny_dataset(tmp_path / "d.zarr", 30, spec=spec)
    written = [column for column in column_names(buffer) if column.startswith("return")][1:]
    assert written[:2] == ["return_0", 'return["drone-1"]']
    for agent, column in enumerate(written):
        expected = buffer.episodes("agent_return")[:, agent] > 0
        assert np.array_equal(episodes_where(buffer, f"{column} > 0"), expected), column
    with pytest.raises(UnknownNameError, match="drone-1"):
        episodes_where(buffer, "return['drone-2'] > 0")
