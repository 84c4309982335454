"""Writing a dataset: blocks of whole episodes in; chunk files, a journal and a manifest out."""
