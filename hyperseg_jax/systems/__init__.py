"""Whole systems.

system                the protocol of a system, and the registry
hyperseg              HyperSeg: its wiring, its losses and its answers
hyperseg_checkpoints  the public checkpoints that HyperSeg's weights come from
"""
