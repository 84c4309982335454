"""Minari datasets that are stored as HDF5: written, read back, and those of others."""
