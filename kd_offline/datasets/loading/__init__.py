"""Batches of episodes or windows: from memory, streamed, of several datasets, as tensors."""
