"""A progress bar in a terminal or a notebook; elsewhere a log line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from kd_offline.tracking.base import Observer, Operation
from kd_offline.untrusted_text import for_terminal

# A log gets a line at every tenth of the work, at least _SHORT_S and at most _LONG_S seconds after
# the line before.
_SHORT_S, _LONG_S = 2.0, 30.0
_LOGGED_EACH = "epochs"  # this unit gets a line at every step


class ProgressBar(Observer):
    """Shows progress and the latest metrics on stderr.

    Parameters
    ----------
    write
        Called with each line; by default it goes to stderr.
    """

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write or (lambda line: print(for_terminal(line), file=sys.stderr))
        self._bar: Any = None
        self.start(Operation(""))

    def start(self, operation: Operation) -> None:
        """Start with an empty bar."""
        self._close()
        self._format = _FORMATS.get(operation.name, _format_first_three)
        self._latest: dict[str, float] = {}
        self._series = self._text = self._unit = ""
        self._last, self._next_tenth = time.monotonic(), 1

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Show values beside the bar, from the next progress event on."""
        if series != self._series:
            self._series, self._latest = series, {}
        self._latest |= values
        self._text = for_terminal(self._format(self._latest, series))

    def progress(self, done: int, total: int, unit: str) -> None:
        """Move the bar, or print a log line if one is due."""
        if unit != self._unit:
            self._close()
            self._unit, self._next_tenth = unit, 1
            self._bar = _bar(total, unit)
        if self._bar is not None:
            self._bar.total = total
            if self._text:
                self._bar.set_postfix_str(self._text, refresh=False)
            self._bar.update(done - self._bar.n)
        elif done and self._line_is_due(done, total):
            self._last = time.monotonic()
            self._next_tenth = _tenths(done, total) + 1
            tail = f", {self._text}" if self._text else ""
            self._write(f"{done:,} of {total:,} {unit}{tail}")

    def message(self, text: str) -> None:
        """Print a line."""
        if self._bar is not None:
            self._bar.clear()
        self._write(text)

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Remove the bar."""
        self._close()

    def _line_is_due(self, done: int, total: int) -> bool:
        elapsed = time.monotonic() - self._last
        next_tenth_reached = _tenths(done, total) >= self._next_tenth
        return (
            self._unit == _LOGGED_EACH
            or elapsed > _LONG_S
            or (next_tenth_reached and elapsed > _SHORT_S)
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _tenths(done: int, total: int) -> int:
    return 10 * done // max(total, 1)


def _bar(total: int, unit: str) -> Any:
    """Return a bar of tqdm; None where stderr is no terminal and this is no notebook."""
    if _in_notebook():
        from tqdm.notebook import tqdm as in_page

        return in_page(total=total, unit=unit, leave=False)
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, file=sys.stderr, leave=False)


def _in_notebook() -> bool:
    """Return whether this is a Jupyter notebook with ipywidgets, which can show a bar."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or "IPKernelApp" not in shell.config:
        return False
    from tqdm import notebook

    return getattr(notebook, "IProgress", None) is not None  # ipywidgets is installed


def _format_first_three(latest: Mapping[str, float], series: str) -> str:
    values = [f"{name} {value:.4g}" for name, value in list(latest.items())[:3]]
    return ", ".join([series, *values] if series else values)


def _format_distillation(latest: Mapping[str, float], series: str) -> str:
    texts = [series]
    for part in ("train", "validation"):
        if any(name.startswith(f"{part}/") for name in latest):
            selected = {key: latest.get(f"{part}/{key}") for key in ("kl", "ce", "agreement")}
            values = [f"{key} {value:.4f}" for key, value in selected.items() if value is not None]
            texts.append(" ".join([part, *values]))
    return ", ".join(texts)


def _format_training(latest: Mapping[str, float], series: str) -> str:
    head = "train/return/"
    returns = [f"{k.removeprefix(head)} {v:.2f}" for k, v in latest.items() if k.startswith(head)]
    won = f", won {latest['train/won']:.0%}" if "train/won" in latest else ""
    return f"return {' '.join(returns)}{won}"


def _format_trial(latest: Mapping[str, float], series: str) -> str:
    return f"{series} {latest['trial/quality']:.3f}"


_FORMATS: dict[str, Callable[[Mapping[str, float], str], str]] = {
    "distill": _format_distillation,
    "train": _format_training,
    "record": lambda latest, series: "",
    "sweep": _format_trial,
}
