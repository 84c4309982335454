"""Hooks of MkDocs: pages made of other files of the repository, links to them, and diagrams."""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import mermaidx
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
DIAGRAM = re.compile(r"^```mermaid\n(?P<source>.*?)^```$", re.DOTALL | re.MULTILINE)
FENCE = "````"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of other files."""
    for uri, made in MADE.items():
        files.append(File.generated(config, uri, content=made()))
    for path in COPIED:
        place = f"files/{path}"
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links out of docs/ into links within the site, and Mermaid into pictures."""
    folder = posixpath.dirname(page.file.src_uri)
    here = posixpath.join("docs", folder)
    if page.file.src_uri in FROM:
        here = posixpath.dirname(FROM[page.file.src_uri])

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, found["path"]))
        place = _place(target)
        if place is None:
            return found[0]
        anchor = "" if place.endswith((".toml", ".json")) else found["anchor"] or ""
        return f"]({posixpath.relpath(place, folder or '.')}{anchor})"

    markdown = LINK.sub(link, markdown)
    return DIAGRAM.sub(lambda found: _drawn(found["source"]), markdown)


def _place(target: str) -> str | None:
    """Return where a file of the repository is in the site; None for what is not of it."""
    for uri, path in FROM.items():
        if target == path:
            return uri
    if target in COPIED:
        return f"files/{target}"
    if target.startswith("cli/recipes"):
        return "recipes.md"
    if target in ELSEWHERE:
        return ELSEWHERE[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else None


def _drawn(source: str) -> str:
    drawing = mermaidx.render(source).svg()
    width = re.search(r'viewBox="0 0 ([\d.]+)', drawing)
    if width is None:
        msg = f"the diagram {source[:60]!r} was drawn without a size"
        raise ValueError(msg)
    # Two drawings of a page would share their ids; one as wide as the page could not be read.
    drawing = drawing.replace("my-svg", f"diagram-{sha256(source.encode()).hexdigest()[:8]}")
    drawing = drawing.replace('width="100%"', f'width="{float(width[1]):.0f}"', 1)
    return f'<div class="diagram">\n{drawing}\n</div>'


def _command_line() -> str:
    """Return the help of every command."""
    parts = ["# Command line\n\nThe help of every command, as `--help` prints it.\n"]
    texts = sorted((ROOT / "cli" / "reference").glob("*.txt"), key=lambda p: p.stem != "kd-offline")
    for path in texts:
        name = path.stem if path.stem == "kd-offline" else f"kd-offline {path.stem}"
        parts.append(f"\n## {name}\n\n{FENCE}text\n{path.read_text('utf-8').strip()}\n{FENCE}\n")
    return "".join(parts)


def _recipes() -> str:
    """Return every recipe that comes with kd-offline."""
    parts = ["# Recipes\n\nFiles for `--recipe`. Those of `bundled` made the bundled experts.\n"]
    for path in sorted((ROOT / "cli" / "recipes").glob("*/*.toml")):
        text = path.read_text("utf-8")
        tomllib.loads(text)
        name = path.relative_to(ROOT / "cli" / "recipes").as_posix()
        parts.append(f"\n## {name}\n\n{FENCE}toml\n{text.strip()}\n{FENCE}\n")
    return "".join(parts)


FROM = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "tiny-dataset.md": "datasets/tiny-spread/card.md",
}
MADE: dict[str, Callable[[], str]] = {
    **{uri: lambda path=path: (ROOT / path).read_text("utf-8") for uri, path in FROM.items()},
    "command-line.md": _command_line,
    "recipes.md": _recipes,
}
COPIED = (
    "LICENSE",
    "kd_offline/students/mask_presets.toml",
    "tests/hostile/cases.toml",
    "datasets/tiny-spread/manifest.json",
    "datasets/tiny-spread/recipe.toml",
)
ELSEWHERE = {
    "datasets": "guide/sharing.md",
    "schemas": "format.md",
    "docs/decisions": "decisions/001-layout.md",
}
