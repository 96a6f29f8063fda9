"""Training: one loop for all systems, and what it is made of.

The loop
    loop.py       train(): a run from its config to its model, top to bottom
    checks.py     checks of the config before a run; reports of padding and placement; names of training metrics
    beginning.py  the shapes and shardings of the state, and its first values

The step
    state.py           the train state and the jitted train step
    param_groups.py    param groups by regex: freezing, learning rates, weight decay
    length_buckets.py  batches cut to the shortest sequence length that holds them
    flops.py           FLOPs of a step and model FLOP utilization

Files and signals
    workdir.py             the workdir, a folder or a bucket
    checkpoint.py          saving and restoring with Orbax
    stopping.py            Ctrl-C and SIGTERM
    unreadable_records.py  training records that cannot be read

Metrics
    observers.py  progress bar, console lines, metrics.jsonl, TensorBoard
    means.py      running means of the losses of each task
    plots.py      loss.png, and the figure that sweeps use as well
    clock.py      where the time goes; goodput
"""
