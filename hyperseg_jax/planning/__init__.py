"""Estimates the memory and communication of a run on a TPU slice by ahead-of-time compilation, without a TPU.

Files
    topologies.py  the devices of a TPU slice
    compile.py     compiles the train step ahead of time: memory and collectives
    program.py     parses a compiled program (HLO text)
"""
