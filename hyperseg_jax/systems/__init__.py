"""Whole systems.

system     the protocol of a system, and the registry
hyperseg/  HyperSeg: its wiring, its words and pixels, its losses and its answers
"""
