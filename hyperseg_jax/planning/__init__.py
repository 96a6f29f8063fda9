"""What a run needs, before it starts: checks of its data and sizes; memory and communication on a TPU slice by ahead-of-time
compilation, without a TPU.

Files
    check.py       `hyperseg train --check`: everything up to the first step, without running it
    devices.py     number, hosts and memory of devices
    topologies.py  the devices of a TPU slice
    compile.py     compiles the train step ahead of time: memory and collectives
    program.py     parses a compiled program (HLO text)
    cost.py        sums the compiler's estimates of a program: cycles and bytes
"""
