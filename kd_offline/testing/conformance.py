"""The error of conformance checks."""

from __future__ import annotations


class ConformanceError(AssertionError):
    """A part violates a rule of its protocol; ``rule`` names it."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule


def require(holds: object, rule: str, detail: str) -> None:
    """Raise a :class:`ConformanceError` of ``rule`` if the condition ``holds`` is false."""
    if not holds:
        raise ConformanceError(rule, detail)
