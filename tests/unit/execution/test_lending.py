"""What tasks of one command have loaded is never lent to those of another."""

from contextlib import ExitStack, contextmanager
from functools import partial

from kd_offline.execution.lending import close_lent, lent


def test_tasks_of_two_commands_that_overlap_get_what_is_their_own():
    closed = []

    @contextmanager
    def loading(name):
        yield name
        closed.append(name)

    with ExitStack() as first:
        assert first.enter_context(lent("one", partial(loading, "one"))) == "one"
        with ExitStack() as second:
            assert second.enter_context(lent("two", partial(loading, "two"))) == "two"
            first.close()
            assert closed == ["one"]
    for name in ("two", "three"):  # the second is closed when a third command begins
        with lent(name, partial(loading, f"{name} again")) as loaded:
            assert loaded == {"two": "two", "three": "three again"}[name]
    close_lent()
    assert closed == ["one", "two", "three again"]
