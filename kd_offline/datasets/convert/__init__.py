"""Other formats, in and out: :func:`kd_offline.convert` and one module for each format."""
