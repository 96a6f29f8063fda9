"""Answers in the file formats that the benchmarks' servers take, one file a format; each `write` makes a file that is whole."""
