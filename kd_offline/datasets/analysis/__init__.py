"""Statistics and pictures of a dataset that its manifest does not hold."""
