"""Reading a dataset: open cheaply, read only what is asked for, check every byte."""
