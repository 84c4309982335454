"""Model of the packages that parts of a run come from."""

from __future__ import annotations

from pydantic import Field

from kd_offline.schemas.environment import Strict


class PartRecord(Strict):
    """A part that an installed plug-in added, such as a loss term."""

    kind: str = Field(description="loss term, algorithm, ...")
    name: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"
