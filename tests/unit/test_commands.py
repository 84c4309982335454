"""Commands in reports, as one types them."""

from pathlib import Path

from kd_offline.commands import command_text


def test_a_command_is_quoted_and_leaves_out_options_without_a_value():
    text = command_text("evaluate", Path("my run"), seed=0, cross_play=True, ceiling=None)
    assert text == "kd-offline evaluate 'my run' --seed 0 --cross-play"
    assert command_text("profile", energy=False) == "kd-offline profile"


def test_values_of_a_list_repeat_the_option():
    text = command_text("bench", "latency", "run", device=["a", "b c"])
    assert text == "kd-offline bench latency run --device a --device 'b c'"
