"""What conformance checks raise."""

from __future__ import annotations


class ConformanceError(AssertionError):
    """A part breaks a rule of its protocol; ``rule`` names it."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule


def require(holds: object, rule: str, detail: str) -> None:
    """Raise a :class:`ConformanceError` of ``rule`` unless something holds."""
    if not holds:
        raise ConformanceError(rule, detail)
