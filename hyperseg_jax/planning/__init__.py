"""Planning: what a run needs of a TPU slice, told by its compiler on a machine without a TPU.

Files
    topologies.py  the chips of a slice, described
    compile.py     the train step compiled ahead of time: memory and collectives
    program.py     reads a compiled program (HLO text)
"""
