import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.analysis.profile import profile
from kd_offline.errors import NotADatasetError, StorageError
from kd_offline.recording.record import record
from kd_offline.reports.dataset import inspect_html
from kd_offline.reports.dataset_plots import actions_plot
from kd_offline.testing.factories import environment_spec, tiny_dataset

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def buffer(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "spread.zarr"
    record("mpe/simple_spread_v3", path, episodes=40, batch=40, threads=1)
    return ExpertBuffer.open(path)


@pytest.fixture(scope="module")
def page(buffer, tmp_path_factory):
    target = tmp_path_factory.mktemp("html") / "page.html"
    assert inspect_html(buffer, target) == target
    return target


class _Page(HTMLParser):
    """Collects ids, what a browser would fetch, and the cells of every table by its caption."""

    void = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._caption = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in ("td", "th"):
            self.tables[self._caption][-1].append("")
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "caption" in self.open:
            self._caption = data
            self.tables[data] = []
        elif self.open and self.open[-1] in ("td", "th"):
            self.tables[self._caption][-1][-1] += data

    def table(self, caption: str) -> dict[str, list[str]]:
        """Return a table by the first cell of each row."""
        return {row[0]: row[1:] for row in self.tables[caption][1:]}


def number(text):
    plain = text.replace("\N{MINUS SIGN}", "-").replace(",", "").replace("\N{NO-BREAK SPACE}%", "")
    return float(plain)


def test_the_page_is_whole_and_needs_nothing_else(page):
    text = page.read_text()
    parsed = _Page(text)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(link.startswith("#") for link in parsed.links)
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert "://" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", text)


def test_every_section_is_there(page):
    parsed = _Page(page.read_text())
    sections = ("headline", "returns", "actions", "expert", "values", "embeddings", "masks")
    for name in (*sections, "provenance", "arrays", "playback", "again"):
        assert name in parsed.ids
    assert "blind-spots" in parsed.ids
    assert page.read_text().count("<svg ") == 7 + 3  # blind spots of each agent
    masks = [caption for caption in parsed.tables if caption.startswith("Mask ")]
    assert [m.split()[1].rstrip(":") for m in masks] == ["full", "limited", "paper", "random-k"]


def test_the_numbers_are_those_of_the_data(page, buffer):
    parsed, found = _Page(page.read_text()), profile(buffer)
    parts = parsed.table("Parts of the episodes")
    returns = buffer.episodes("return")
    for name in ("train", "heldout"):
        mine = returns[buffer.split(name)]
        assert number(parts[f"split {name}"][0]) == len(mine)
        assert number(parts[f"split {name}"][1]) == pytest.approx(mine.mean(), abs=0.006)
    levels = buffer.episodes("noise_level")
    assert number(parts["noise 0"][0]) == (levels == 0).sum()
    overall = parsed.table("Over all episodes")["return, all agents"]
    wanted = [returns.mean(), returns.std(), returns.min(), returns.max()]
    assert [number(x) for x in overall] == pytest.approx(wanted, abs=0.006)
    taken = parsed.table("Actions of agents that are alive")["agent_1: left"]
    share = (buffer.read("steps/actions")[:, 1] == 1).mean()
    assert [number(x) for x in taken] == pytest.approx([100 * share, 100.0], abs=0.06)
    sources = parsed.table("Who chose the actions")["agent_2"]
    source = buffer.read("steps/action_source")[:, 2]
    wanted = [100 * (source == k).mean() for k in range(3)]
    assert [number(x) for x in sources] == pytest.approx(wanted, abs=0.06)
    values = parsed.table("Values against discounted returns")["agent_0"]
    assert number(values[1]) == pytest.approx(found.calibration.correlation[0], abs=6e-4)
    entropy = parsed.table("Entropy, nats")["agent_0"]
    assert number(entropy[0]) == pytest.approx(found.entropy[0, 0], abs=6e-4)
    assert parsed.table("Mask limited: " + buffer.manifest.masks["limited"].description)[
        "agent_1"
    ] == ["seen", "seen", "seen", "hidden", "hidden"]
    assert parsed.table("Dataset")["id"] == [buffer.id]
    assert parsed.table("Expert 0")["digest of its weights"] == [buffer.manifest.experts[0].digest]
    assert len(parsed.table("Arrays")) == len(buffer.names)


def test_the_scenes_are_those_of_the_data(page, buffer):
    raw = re.search(r'<script type="application/json" id="scenes">(.*?)</script>', page.read_text())
    assert raw is not None
    data = json.loads(raw[1])
    assert data["agents"] == list(buffer.spec.agents)
    scene = data["scenes"][0]
    best = int(buffer.episodes("return").argmax())
    assert scene["episode"] == best
    loaded = buffer.load(["steps/obs", "steps/actions"], np.array([best]))
    np.testing.assert_allclose(
        np.array(scene["places"])[:-1], loaded["steps/obs"][:, :, 2:4], atol=6e-4
    )
    assert scene["actions"] == loaded["steps/actions"].tolist()
    assert page.read_text().count("<option ") == len(data["scenes"])


@pytest.mark.skipif(CHROMIUM is None, reason="no browser")
def test_a_browser_draws_the_episode(page):
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    stage = re.search(r'<svg id="stage".*?</svg>', done.stdout, re.DOTALL)
    assert stage is not None
    assert stage[0].count("<circle") == 3
    assert stage[0].count("<rect") == 3
    assert "step 0 of 25, reward so far 0.00" in done.stdout
    assert len(re.findall(r"<li style=[^>]*>\d agent_\d: \w+", done.stdout)) == 3


def test_the_same_dataset_gives_the_same_bytes(page, buffer, tmp_path):
    again = inspect_html(buffer.path, tmp_path / "again.html")
    assert again.read_bytes() == page.read_bytes()


def test_actions_that_nobody_takes_are_drawn_as_nothing():
    nobody = np.zeros((4, 1, 2))
    drawn = actions_plot(["a"], [["stay", "go"]], nobody, np.arange(4.0))
    assert "stay" in drawn
    assert "nan" not in drawn.lower()


def test_a_dataset_with_little_in_it(tmp_path):
    spec = environment_spec((3,), (2,))
    names = ("logits", "embedding", "action_source", "value", "behaviour_logprob")
    without = [f"steps/{name}" for name in names] + ["final/value", "episodes/noise_level"]
    buffer = tiny_dataset(tmp_path / "d", 1, spec=spec, without=without, masks={})
    parsed = _Page(inspect_html(buffer, tmp_path / "page.html").read_text())
    assert {"returns", "actions", "provenance", "arrays"} <= set(parsed.ids)
    assert not {"expert", "values", "embeddings", "playback"} & set(parsed.ids)


def test_many_agents_of_different_kinds(tmp_path):
    spec = environment_spec((6, 3, 5, 2, 2, 2, 2), (5, 2, 4, 3, 3, 3, 3), state_width=7)
    buffer = tiny_dataset(tmp_path / "d", 12, spec=spec)
    text = inspect_html(buffer, tmp_path / "page.html").read_text()
    assert "agent_6: a2" in text


def test_names_from_files_are_escaped(tmp_path, undrawn):
    buffer = tiny_dataset(tmp_path / "d")
    evil = "</script><script>alert(1)</script>"
    spec = buffer.spec.model_copy(update={"id": f"mpe/{evil}"})
    buffer.manifest = buffer.manifest.model_copy(
        update={"name": evil, "description": evil, "environment": spec}
    )
    text = inspect_html(buffer, tmp_path / "page.html").read_text()
    assert "<script>alert" not in text
    assert html.escape(evil) in text


def test_the_command(buffer, undrawn, tmp_path):
    target = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["inspect", str(buffer.path), "--html", str(target)])
    assert (done.exit_code, done.stdout) == (0, f"{target}\n")
    assert target.read_text().startswith("<!DOCTYPE html>")
    both = CliRunner().invoke(
        app, ["inspect", str(buffer.path), "--html", str(target), "--json", "--overwrite"]
    )
    assert json.loads(both.stdout)["id"] == buffer.id


def test_mistakes_are_told(tmp_path):
    with pytest.raises(NotADatasetError):
        inspect_html(tmp_path / "nothing", tmp_path / "page.html")
    with pytest.raises(StorageError):
        inspect_html(tiny_dataset(tmp_path / "d"), tmp_path / "d" / "zarr.json" / "page.html")
