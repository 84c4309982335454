"""Datasets from datasets: every operation makes a new one that names its parents."""
