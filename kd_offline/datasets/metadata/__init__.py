"""Summaries, cards and catalogue entries from a dataset's manifest."""
