"""The examples of the guide to reading run as they stand."""

import re
from pathlib import Path

import pytest

from kd_offline.testing.factories import tiny_dataset

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "reading.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_dataset("dataset.zarr", lengths=[5, 25, 9] * 20)
    tiny_dataset("other.zarr", lengths=[25, 3, 7] * 4, seed=1)
    exec(compile(EXAMPLES[number], f"example {number}", "exec"), {})
