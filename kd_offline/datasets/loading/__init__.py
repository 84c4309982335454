"""Batches of episodes or windows, from memory or streamed."""
