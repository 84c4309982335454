import builtins
import re
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from kd_offline.errors import MissingExtraError, UsageError
from kd_offline.reports import plots
from kd_offline.reports.html import report
from kd_offline.reports.markdown import markdown
from kd_offline.runs.folder import RunFolder, create_run
from kd_offline.testing.factories import tiny_dataset
from kd_offline.testing.reports import evaluation_report, fabricate_run, metric_rows, run_manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fabricate_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return report(run.path).read_text()


class _Page(HTMLParser):
    """Collects what a browser would fetch, the ids, and whether tags nest."""

    void = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(page):
    parsed = _Page()
    parsed.feed(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids)), "ids must be unique over all figures"
    assert all(link.startswith("#") for link in parsed.links)
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_page_has_every_section_and_figure(page):
    for anchor in ("headline", "retention", "cost", "actions", "mixed", "training", "provenance"):
        assert f'id="{anchor}"' in page
    assert page.count("<svg ") == 5
    assert "That is 96.8" in page
    assert "kd-offline evaluate run --episodes 4000 --seed 0 --cross-play" in page


def test_figures_take_their_colours_from_the_page(page):
    drawn = "".join(re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL))
    assert "var(--student)" in drawn
    assert not re.search(r"#0a0b0", drawn), "a placeholder colour was left"
    assert not re.search(r"(?:fill|stroke): #[0-9a-f]{6}", drawn), "a fixed colour was left"
    assert "<style" not in drawn


def test_the_same_run_gives_the_same_bytes(run, page, tmp_path):
    assert report(run.path, output=tmp_path / "again.html").read_text() == page


def test_sides_and_a_missing_ceiling_render(tmp_path):
    text = report(fabricate_run(tmp_path / "run", sides=True, ceiling=False).path).read_text()
    assert "greedy, adversary" in text
    assert "<strong>" in text
    assert "of the mask ceiling" not in text


def test_a_run_without_evaluation_says_so(tmp_path):
    folder = create_run(tmp_path / "run", run_manifest())
    text = report(folder.path).read_text()
    assert "have not been evaluated yet" in text
    assert "kd-offline evaluate run" in text
    assert 'id="retention"' not in text
    assert "Not evaluated yet" in markdown(folder.path)


def test_names_from_files_are_escaped(tmp_path):
    sneaky = run_manifest().model_copy(update={"method": "<script>alert(1)</script>"})
    folder = create_run(tmp_path / "run", sneaky)
    assert "<script" not in report(folder.path).read_text()


def test_markdown_tables_are_regular(run):
    text = markdown(run.path)
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
    assert text.startswith("# kd-marl on mpe/simple_spread_v3, mask limited")
    assert "87.8" in text


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_names_the_extra(run, monkeypatch, library):
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == library:
            raise ImportError(name)
        return original(name, *args, **kwargs)

    for module in [m for m in sys.modules if m.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=rf"{library}.*kd-offline\[report\]"):
        report(run.path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a run"):
        report(tmp_path)
    with pytest.raises(UsageError, match="is not a run"):
        markdown(tmp_path)


def test_curves_are_the_numbers_that_are_not_places():
    rows = [*metric_rows((0,), epochs=2), {"seed": 0, "epoch": 3, "split": "train", "ppo": None}]
    assert plots.curve_names(rows) == [
        "loss",
        "kl",
        "cross_entropy",
        "structure",
        "role",
        "agreement",
    ]
    assert plots.curves_plot([{"seed": 0, "epoch": 1, "split": "train"}]) is None


def test_long_episodes_are_binned():
    heat = evaluation_report().action_frequency[0]
    long = heat.model_copy(update={"expert": heat.expert * 8, "student": heat.student * 8})
    assert len(plots.heat_plot([long])) < 2.5 * len(plots.heat_plot([heat]))


def test_the_data_is_shown_where_it_is_at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = tiny_dataset("dataset.zarr", 12)
    run = create_run(tmp_path / "run", run_manifest())
    text = report(run.path).read_text()
    assert "Left out: another dataset lies where the run states its own." in text
    source = run_manifest().dataset.model_copy(update={"id": buffer.id})
    run.write_manifest(run_manifest().model_copy(update={"dataset": source}))
    text = report(run.path).read_text()
    parsed = _Page()
    parsed.feed(text)
    assert "data" in parsed.ids
    assert len(parsed.ids) == len(set(parsed.ids))
    taken = buffer.manifest.statistics.action_counts[1]
    share = f"{100 * taken[2] / sum(taken):.1f}"
    assert re.search(rf"agent_1: a2</th><td>{share}\s*%", text)
    (buffer.path / "manifest.json").write_text("{}")
    text = report(run.path).read_text()
    assert "Left out: the dataset cannot be read, and verifying it tells why." in text


def test_heat_maps_have_a_scale_of_their_colours():
    drawn = plots.heat_plot(evaluation_report().action_frequency)
    assert drawn.count("share of the action at a step, %") == 2


def test_training_and_held_out_kl_share_an_axis_only_where_they_are_the_same_quantity():
    rows = metric_rows((0,), epochs=3)
    apart = {
        title: shown
        for title, _, shown in plots.curve_panels(
            rows, {"temperature": 2.0, "scale_by_temperature": True}
        )
    }
    assert {row["split"] for row in apart["KL at temperature 2, \N{MULTIPLICATION SIGN}4"]} == {
        "train"
    }
    assert {row["split"] for row in apart["KL divergence"]} == {"heldout"}
    together = plots.curve_panels(rows, {"temperature": 1.0, "scale_by_temperature": True})
    (both,) = (shown for title, _, shown in together if title == "KL divergence")
    assert {row["split"] for row in both} == {"train", "heldout"}
    unscaled = {"temperature": 3.0, "scale_by_temperature": False}
    assert "KL at temperature 3" in [title for title, _, _ in plots.curve_panels(rows, unscaled)]


def test_another_part_is_named_on_the_curves():
    rows = [
        {"seed": 0, "epoch": k, "split": split, "ce": 1 / k}
        for k in (1, 2)
        for split in ("train", "val")
    ]
    drawn = plots.curves_plot(rows)
    assert drawn is not None
    assert "held-out (val)" in drawn
