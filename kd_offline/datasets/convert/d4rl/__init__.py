"""Flat HDF5 files in the layout of D4RL: one row a step in every array."""
