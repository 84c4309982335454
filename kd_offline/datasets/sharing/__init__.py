"""Copies of datasets from place to place, and who vouches for them."""
