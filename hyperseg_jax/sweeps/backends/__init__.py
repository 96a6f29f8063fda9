"""Backends: who runs the trials of a sweep.

Files
    local.py      a queue on this machine
    ray_tune.py   Ray Tune, on one machine or a cluster; early stopping with ASHA
    launchers.py  GKE and Slurm: one job a trial, through launch/
"""
