"""Root folders that are made from the code: written on request, and held against it by tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kd_offline.files import make_folder, remove_tree, write_file


@dataclass(frozen=True, slots=True)
class PublishedFolder:
    """A folder of text files that the code determines."""

    texts: Callable[[], Mapping[str, str]]  # file name -> content
    pattern: str  # the files that are ours
    target: str  # of make, which writes them
    keeps: Callable[[str], bool] = lambda name: False  # files of former versions, which stay

    def stale(self, folder: Path) -> list[str]:
        """Return the files in ``folder`` that are missing, made no more, or not as written."""
        wanted = self.texts()
        wrong = {name for name, text in wanted.items() if not _holds(folder / name, text)}
        return sorted(wrong | {file.name for file in self._gone(folder, wanted)})

    def write(self, folder: Path) -> None:
        """Write every file into ``folder`` and remove those that are made no more."""
        make_folder(folder)
        wanted = self.texts()
        for file in self._gone(folder, wanted):
            remove_tree(file)
        for name, text in wanted.items():
            if not _holds(folder / name, text):
                write_file(folder / name, text)

    def main(self, arguments: list[str]) -> int:
        """Obey ``--write FOLDER`` or ``--check FOLDER``; return the exit status."""
        mode, folder = arguments
        if mode == "--write":
            self.write(Path(folder))
            return 0
        if wrong := self.stale(Path(folder)):
            sys.stderr.write(f"not in step: {', '.join(wrong)}; run make {self.target}\n")
            return 1
        return 0

    def _gone(self, folder: Path, wanted: Mapping[str, str]) -> Iterator[Path]:
        for file in folder.glob(self.pattern):
            if file.name not in wanted and not self.keeps(file.name):
                yield file


def _holds(file: Path, text: str) -> bool:
    return file.is_file() and file.read_bytes() == text.encode("utf-8")
