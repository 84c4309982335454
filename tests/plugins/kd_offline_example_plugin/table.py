"""A tracker that keeps a table of the metrics: ``--track table:FILE``."""

import csv
from pathlib import Path

from kd_offline.tracking.base import Observer


class Table(Observer):
    """Writes a row for every value: operation, series, step, name, value."""

    def __init__(self, file=""):
        self.file = Path(file or "metrics.csv")

    def start(self, operation):
        """Take note of the operation's title."""
        self.title = operation.title

    def metrics(self, step, values, *, series=""):
        """Append the rows."""
        with self.file.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerows([self.title, series, step, *value] for value in values.items())
