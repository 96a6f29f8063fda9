"""Many trainings that differ in a few fields: grids, trials, and the backends that run them."""
