import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from kd_offline.datasets.format import layout
from kd_offline.errors import UnknownNameError
from kd_offline.schemas.dataset import ArraySpec
from kd_offline.sealed_json import seal, unseal

SPEC = ArraySpec(
    dtype="float32", shape=(100, 3, 5), axes=("R", "N", "A"), digest="sha256:" + "0" * 64
)


@pytest.mark.parametrize(
    ("row_bytes", "rows"), [(1, 8192), (1024, 8192), (1025, 4096), (1 << 20, 256), (1 << 30, 1)]
)
def test_chunk_rows_is_a_power_of_two_within_the_byte_limit(row_bytes, rows):
    assert layout.chunk_rows(row_bytes) == rows


def test_metadata_is_accepted_as_written():
    text = layout.array_metadata("float32", (100, 3, 5), 64, ("R", "N", "A"), 1)
    assert layout.parse_array_metadata(text, SPEC) == 64


TAMPERED: dict[str, Callable[[Any], object]] = {
    "shape": lambda d: d.update(shape=[99, 3, 5]),
    "dtype": lambda d: d.update(data_type="int32"),
    "order of axes": lambda d: d.update(dimension_names=["N", "R", "A"]),
    "fill value": lambda d: d.update(fill_value=1.0),
    "divided agents": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[64, 1, 5]),
    "no rows": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[0, 3, 5]),
    "rows as float": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[64.0, 3, 5]),
    "big endian": lambda d: d["codecs"][0]["configuration"].update(endian="big"),
    "no checksum": lambda d: d["codecs"][1]["configuration"].update(checksum=False),
    "another codec": lambda d: d["codecs"].__setitem__(1, {"name": "gzip", "configuration": {}}),
    "one more codec": lambda d: d["codecs"].append({"name": "crc32c"}),
    "attributes": lambda d: d.update(attributes={"note": 1}),
    "format 2": lambda d: d.update(zarr_format=2),
}


@pytest.mark.parametrize("name", list(TAMPERED))
def test_metadata_that_would_change_values_is_refused(name):
    document = json.loads(layout.array_metadata("float32", (100, 3, 5), 64, ("R", "N", "A"), 1))
    TAMPERED[name](document)
    assert layout.parse_array_metadata(json.dumps(document).encode(), SPEC) is None


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000])
def test_metadata_that_is_not_metadata_is_refused(text):
    assert layout.parse_array_metadata(text, SPEC) is None


def test_content_digest_is_the_documented_one():
    values = hashlib.sha256(b"\x01\x00\x02\x00").hexdigest()
    text = f'{{"dtype":"int16","shape":[2],"values":"{values}"}}'
    want = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert layout.content_digest("int16", (2,), values) == want


def test_unknown_array_names_the_allowed_ones():
    with pytest.raises(UnknownNameError, match=r"did you mean 'steps/logits'"):
        layout.rule_for("steps/logit")


def test_embedding_taps_have_names():
    assert layout.rule_for("steps/embedding_encoder").axes == ("R", "N", "H")


def test_seal_detects_every_flipped_bit():
    text = seal({"a": 1, "b": {"c": [1.5, "x"]}})
    document = unseal(text)
    assert document is not None
    assert document["b"] == {"c": [1.5, "x"]}
    for bit in range(8 * len(text)):
        altered = bytearray(text)
        altered[bit // 8] ^= 1 << (bit % 8)
        assert unseal(bytes(altered)) is None
