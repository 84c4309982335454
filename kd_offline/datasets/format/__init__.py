"""The file format: arrays, chunks, the manifest, splits, and limits on what a file may ask for."""
