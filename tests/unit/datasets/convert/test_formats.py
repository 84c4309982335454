"""Which format a path means, and which ways there are."""

import pytest

from kd_offline import convert
from kd_offline.errors import (
    KdOfflineError,
    UsageError,
)

NAMES = {"hdf5": "x.hdf5", "vault": "x.vlt", "minari": "x-v0", "d4rl": "x.h5", "d3rlpy": "x.h5"}


LOSSLESS = ["hdf5", "vault", "minari"]


def export(buffer, folder, kind, **options):
    if kind == "d3rlpy":
        options.setdefault("agent", "agent_0")
    return convert(buffer.path, folder / NAMES[kind], to=kind, **options)


def test_foreign_to_foreign_takes_two_steps(rich, tmp_path):
    export(rich, tmp_path, "hdf5")
    with pytest.raises(UsageError, match="to an expert buffer"):
        convert(tmp_path / "x.hdf5", tmp_path / "x.vlt", to="vault")


def test_what_is_only_written_is_not_read(rich, tmp_path):
    export(rich, tmp_path, "d3rlpy")
    with pytest.raises(UsageError, match="d3rlpy is written, not read"):
        convert(tmp_path / "x.h5", tmp_path / "y.zarr")


@pytest.mark.parametrize("kind", [*LOSSLESS, "d4rl"])
def test_the_wrong_kind_is_told(rich, tmp_path, kind):
    """Every reader meets a file of another kind, and says so."""
    for other in ("hdf5", "vault", "minari", "d4rl"):
        export(rich, tmp_path / other, other)
    for other in {"hdf5", "vault", "minari", "d4rl"} - {kind}:
        with pytest.raises(KdOfflineError) as caught:
            convert(tmp_path / other / NAMES[other], tmp_path / "y.zarr", source_format=kind)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "y.zarr").exists()
