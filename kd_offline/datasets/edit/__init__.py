"""Make datasets from datasets; the result names its parents, which do not change."""
