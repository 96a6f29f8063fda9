"""Parallelism: meshes, shardings and multi-host runs.

Devices
    presets.py    presets as data: mesh axes, and the logical axes sharded over them
    placement.py  the mesh; shardings of parameters and batches
    report.py     the table of parameter shardings
    feed.py       transfer of batch rows between this host and its devices

Hosts
    hosts.py            joining, exchanging texts, failing in bounded time
    failure_watch.py    tells all hosts that one has failed
    startup_barrier.py  waits for all hosts when a run starts, and names missing ones
    watchdog.py         dumps the stacks of a run that hangs
"""
