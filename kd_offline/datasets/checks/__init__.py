"""What verify checks."""
