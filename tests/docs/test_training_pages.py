"""A reader types every block of the pages that train experts or play battles, in order."""

import pytest

from tests.docs.pages import GUIDE, follow

PAGES = {
    name: GUIDE / f"{name}.md"
    for name in (
        "combat",
        "experts",
        "masks",
        "methods",
        "privileged-teachers",
        "value-based-experts",
    )
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_it_runs_as_it_stands(page, tmp_path, monkeypatch):
    follow(page, tmp_path, monkeypatch)
