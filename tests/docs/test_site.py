"""The site: builds without a warning, lies in a folder, and works in a browser at any width."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from playwright.sync_api import sync_playwright

import kd_offline
import kd_offline.datasets
from tests.docs.pages import ROOT, blocks

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
API = sorted((ROOT / "docs" / "api").glob("*.md"))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Return the folder of the site, built as ``make docs`` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


class _Links(HTMLParser):
    """Collects the ids of a page, what it loads and where it leads."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.loaded, self.links = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given.get("href"))
        elif given.get("src"):
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def pages(site):
    """Return every page by its file, parsed."""
    return {path: _Links(path.read_text("utf-8")) for path in site.rglob("*.html")}


def test_every_page_of_the_documentation_is_in_the_navigation(pages, site):
    made = {path.relative_to(site).with_suffix("").as_posix() for path in pages}
    written = {
        path.relative_to(ROOT / "docs").with_suffix("").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    assert written | {"index", "command-line", "recipes", "contributing"} <= made


def test_every_link_leads_to_a_file_and_an_anchor_that_are_there(pages):
    dead = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlparse(link)
            if parts.scheme in ("http", "https", "mailto") or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].ids if target in pages else set()
            if not target.is_file() or (
                parts.fragment and target in pages and unquote(parts.fragment) not in anchors
            ):
                dead.append(f"{path.name}: {link}")
    assert not dead


def test_nothing_is_loaded_from_elsewhere(pages):
    assert not [link for page in pages.values() for link in page.loaded if "//" in (link or "")]


def test_every_public_name_has_an_entry_and_an_example():
    text = "\n".join(path.read_text("utf-8") for path in API)
    entries = set(re.findall(r"^::: (?:\w+\.)+(\w+)$", text, re.MULTILINE))
    code = "\n".join(b.text for path in API for b in blocks(path) if b.language == "python")
    names = {*kd_offline.__all__, *kd_offline.datasets.__all__} - {"__version__"}
    assert not names - entries - {"KdOfflineError"}  # that one is with all errors
    assert not {name for name in names if not re.search(rf"\b{name}\b", code)}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no browser")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield chromium
        chromium.close()


@pytest.fixture
def phone(browser):
    """Return a page that is 400 pixels wide, and collects what the browser complains of."""
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    page.close()


@pytest.mark.parametrize(
    "name",
    [
        "index",
        "results",
        "results-combat",
        "format",
        "architecture",
        "api/operations",
        "guide/cost",
    ],
)
def test_a_page_fits_a_phone_and_makes_no_error(phone, site, name):
    phone.goto((site / f"{name}.html").as_uri())
    assert phone.evaluate("document.documentElement.scrollWidth") <= 400
    assert phone.inner_text("h1")
    assert not phone.complaints


def test_the_search_finds_pages_without_a_server(phone, site):
    phone.goto((site / "index.html").as_uri())
    phone.click("label[for=__search].md-header__button")
    phone.locator(".md-search__input").press_sequentially("quantisation")
    phone.wait_for_selector(".md-search-result__item", timeout=20_000)
    found = phone.locator(".md-search-result__link").evaluate_all("links => links.map(x => x.href)")
    assert any("quantisation.html" in link for link in found)


def test_diagrams_are_drawn(phone, site):
    phone.goto((site / "architecture.html").as_uri())
    boxes = phone.locator(".diagram svg").evaluate_all(
        "drawings => drawings.map(x => x.getBoundingClientRect().height)"
    )
    assert len(boxes) >= 2
    assert min(boxes) > 50


def test_the_site_is_left_out_of_the_package():
    assert not list(Path(kd_offline.__file__).parent.rglob("mkdocs*"))
