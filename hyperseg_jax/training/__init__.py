"""Training: one train loop for all systems, and its parts.

The loop
    loop.py           train(): a run from its config to its model
    checks.py         checks of the config before a run; reports of padding and sharding; names of training metrics
    initial_state.py  the shapes and shardings of the state, and its first values

The step
    state.py           the train state and the jitted train step
    param_groups.py    param groups by regex: freezing, learning rates, weight decay
    length_buckets.py  truncation of batches to the shortest length bucket that holds them
    flops.py           FLOPs of a step and model FLOP utilization
    dispatch.py        limits how far the host runs ahead of the devices

Files and signals
    workdir.py             the workdir, a folder or a bucket
    resume.py              which changes of the config a resumed run allows
    checkpoint.py          saving and restoring the train state; frozen parameters are saved once
    checkpoint_folder.py   a folder of Orbax checkpoints, checked before Orbax opens them
    orbax_messages.py      drops messages about tasks that Orbax leaves behind
    model_export.py        the model folder of a checkpoint
    background.py          writes files in a thread
    stopping.py            graceful stop on Ctrl-C and SIGTERM
    unreadable_records.py  counts and lists unreadable training records

Metrics
    observers.py    progress bar, console lines, metrics.jsonl
    tensorboard.py  scalars and profiles for TensorBoard
    means.py        running means of the losses of each task
    plots.py        loss.png, gates.png, and the figure that sweeps use too
    clock.py        time accounting; goodput
"""
