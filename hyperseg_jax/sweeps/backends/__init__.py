"""Backends that run the trials of a sweep.

Files
    local.py      a queue on this machine
    ray_tune.py   Ray Tune, on one machine or a cluster; early stopping with ASHA
    launchers.py  GKE and Slurm: one job per trial, through launch/
"""
