"""A reader types every block of these pages, in order; others are in test_training_pages."""

import pytest

from tests.docs.pages import GUIDE, ROOT, follow

PAGES = {
    "README": ROOT / "README.md",
    **{
        name: GUIDE / f"{name}.md"
        for name in (
            *("quickstart", "recording", "reading", "inspecting", "integrity", "environments"),
            *("working-with-datasets", "sharing", "converting", "trust", "distillation", "losses"),
            *("scale",),
            *("evaluation", "reproducibility", "several-sides", "budgets", "cost", "export"),
            *(
                "quantisation",
                "sparsity",
                "deployment",
                "bring-your-own-expert",
                "tracking",
                "extending",
            ),
            *("online", "robustness"),
        )
    },
    **{f"api/{path.stem}": path for path in sorted((ROOT / "docs" / "api").glob("*.md"))},
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_it_runs_as_it_stands(page, tmp_path, monkeypatch, request):
    if page.stem == "extending":
        request.getfixturevalue("plugins")
    follow(page, tmp_path, monkeypatch)
