"""Sweeps: many trainings that differ in a few config fields.

What is run
    grids.py    --grid, --zip and --chain: lists of trials
    trials.py   a trial: its name, command, status and scores; the metric
    devices.py  equal shares of the accelerators or cores of this machine

How it is run
    process.py      the training of a trial as a process
    child_guard.py  ends that process when the sweep dies; one process a workdir
    backends/       this machine, Ray, GKE and Slurm

What it found
    results.py  the table, results.json and results.png
"""
