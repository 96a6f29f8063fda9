"""Parallelism: meshes, placement, and runs of many hosts.

Devices
    presets.py    presets as data: mesh axes and the logical axes split over them
    placement.py  the mesh; where parameters and batches lie
    report.py     the table of where each parameter lies
    feed.py       rows of batches from this host to the devices and back

Hosts
    hosts.py            joining, exchanging texts, ending in bounded time
    startup_barrier.py  waits for all hosts when a run starts, and names the missing
    watchdog.py         writes the stacks of a run that hangs
"""
