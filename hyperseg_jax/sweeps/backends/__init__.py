"""Who runs the trials: this machine, a Ray cluster, or jobs of GKE and Slurm."""
