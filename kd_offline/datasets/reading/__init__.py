"""Reading a dataset: opening is cheap, only requested chunks are read, every byte is checked."""
