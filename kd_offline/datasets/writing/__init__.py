"""Writing a dataset: takes blocks of whole episodes, writes chunk files, journal and manifest."""
