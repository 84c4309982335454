"""One HDF5 file with every array of a dataset and its manifest: lossless in both directions."""
