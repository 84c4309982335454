"""What a dataset holds beyond its manifest: figures and pictures."""
