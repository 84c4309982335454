"""Verification: files, digests, and the rules that the values of a dataset must keep."""
