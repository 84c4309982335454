"""What a dataset says of itself: summaries, cards, catalogue entries."""
