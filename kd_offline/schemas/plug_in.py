"""Which installed package a part comes from that a file names."""

from __future__ import annotations

from pydantic import Field

from kd_offline.schemas.environment import Strict


class PlugIn(Strict):
    """A package that adds parts to kd-offline."""

    package: str = Field(min_length=1, description="as pip knows it")
    version: str
