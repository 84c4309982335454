"""Flashbax Vaults with the names of OG-MARL: written, read back, and those of others."""
