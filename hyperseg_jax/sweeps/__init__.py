"""Sweeps: training runs that differ in a few config fields.

Trials
    grids.py    --grid, --zip and --chain: lists of trials
    trials.py   a trial: its name, command, status and scores; the metric of a sweep
    devices.py  splits the accelerators or cores of this machine into equal shares

Execution
    process.py      runs the training of a trial as a process
    child_guard.py  stops that process when the sweep dies; locks the workdir of a trial
    backends/       this machine, Ray, GKE and Slurm

Results
    results.py  the table, results.json and results.png
"""
