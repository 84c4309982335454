import io
import sys

import pytest

from kd_offline.cli import output


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "shown"),
    [(Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)],
    ids=["terminal", "quiet", "file"],
)
def test_progress_goes_to_a_terminal_on_stderr_only(monkeypatch, capsys, stream, quiet, shown):
    monkeypatch.setattr(sys, "stderr", stream)
    with output.bar(10, "steps", quiet) as bar:
        bar.update(5)
        bar.refresh()
    assert ("5/10" in stream.getvalue()) is shown
    assert capsys.readouterr().out == ""


def test_a_table_is_aligned_and_has_no_trailing_blanks():
    assert output.table([("a", "bc", ""), ("long", "b", "x")]) == "a     bc\nlong  b   x"
