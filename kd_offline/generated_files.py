"""Folders of files that are generated from the code, and the check that they are up to date."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kd_offline.files import make_folder, remove_tree, write_file


@dataclass(frozen=True, slots=True)
class GeneratedFolder:
    """A folder of text files that are generated from the code."""

    texts: Callable[[], Mapping[str, str]]  # file name -> content
    pattern: str  # the files that are ours
    target: str  # of make, which writes them
    keeps: Callable[[str], bool] = lambda name: False  # files of former versions, which stay

    def stale(self, folder: Path) -> list[str]:
        """Return the names of files in ``folder`` that are missing, obsolete or different."""
        expected = self.texts()
        outdated = {
            name for name, text in expected.items() if not _has_content(folder / name, text)
        }
        return sorted(outdated | {file.name for file in self._obsolete(folder, expected)})

    def write(self, folder: Path) -> None:
        """Write every file into ``folder`` and remove obsolete ones."""
        make_folder(folder)
        expected = self.texts()
        for file in self._obsolete(folder, expected):
            remove_tree(file)
        for name, text in expected.items():
            if not _has_content(folder / name, text):
                write_file(folder / name, text)

    def main(self, arguments: list[str]) -> int:
        """Execute ``--write FOLDER`` or ``--check FOLDER``; return the exit status."""
        mode, folder = arguments
        if mode == "--write":
            self.write(Path(folder))
            return 0
        if outdated := self.stale(Path(folder)):
            sys.stderr.write(f"not in step: {', '.join(outdated)}; run make {self.target}\n")
            return 1
        return 0

    def _obsolete(self, folder: Path, expected: Mapping[str, str]) -> Iterator[Path]:
        for file in folder.glob(self.pattern):
            if file.name not in expected and not self.keeps(file.name):
                yield file


def _has_content(file: Path, text: str) -> bool:
    return file.is_file() and file.read_bytes() == text.encode("utf-8")
