import json

from kd_offline.tracking.base import Observers, Operation, observed
from kd_offline.tracking.jsonl import JsonLines


def test_every_set_of_metrics_is_a_line(tmp_path):
    file = tmp_path / "all.jsonl"
    for seed in (0, 1):
        with observed(Operation("distill", {}, tmp_path / "run"), [JsonLines(file)]) as observer:
            observer.metrics(1, {"train/kl": 0.5}, series=f"seed {seed}")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [
        {"operation": "distill run", "series": f"seed {seed}", "step": 1, "train/kl": 0.5}
        for seed in (0, 1)
    ]


def test_numbers_that_json_lacks_are_null(tmp_path):
    Observers([JsonLines(tmp_path / "m.jsonl")]).metrics(1, {"a": float("nan"), "b": float("inf")})
    row = json.loads((tmp_path / "m.jsonl").read_text())
    assert (row["a"], row["b"]) == (None, None)
