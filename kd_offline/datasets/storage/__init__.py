"""Where the files of a dataset lie, and how they are read."""
