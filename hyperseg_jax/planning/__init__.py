"""What a run will need of a TPU slice, found out by its compiler on a machine that has no TPU."""
