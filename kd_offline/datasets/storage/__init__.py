"""The files of a dataset: in a folder, an archive, an object store, on a web server or the Hub."""
