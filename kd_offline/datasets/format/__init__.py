"""The file format: arrays, chunks, the manifest, and what may be asked of a reader."""
